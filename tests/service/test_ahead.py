"""Keys made ahead: each is used once, by one caller; a living process's are left alone, a dead one's are swept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from service import ahead, erasure, ids
from service.ahead import LONGEST, Ahead
from service.blobs import Vault, directory_vault
from service.dispatcher import ABANDONED
from service.home import Home, open_home
from service.settings import Settings

SEVERAL = 8

# Seals without end, a word for each blob; whoever reads may kill it at any word.
ENDLESS = """
import sys
from pathlib import Path
from service.ahead import Ahead
from service.blobs import directory_vault
root = Path(sys.argv[1])
spare = Ahead(directory_vault(root / "blobs", root / "keys"), 4)
while True:
    print(spare.put(b"one"), flush=True)
"""


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return directory_vault(tmp_path / "blobs", tmp_path / "keys")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    opened = open_home(Settings(data_dir=tmp_path / "data"))
    yield opened
    opened.close()


def filled(vault: Vault) -> tuple[Ahead, set[str]]:
    """Spare ids in stock, after a first use, and which."""
    spare = Ahead(vault, SEVERAL)
    first = spare.put(b"first")
    deadline = time.monotonic() + 30
    while len(found := set(vault.keys.ids()) - {first}) < SEVERAL or any(t.name == "keys" for t in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return spare, found


def test_a_request_takes_an_id_whose_key_was_there_before(vault: Vault) -> None:
    spare, stock = filled(vault)

    taken = [spare.put(b"asked") for _ in range(3)]

    assert set(taken) <= stock and len(set(taken)) == 3
    assert [vault.read(blob) for blob in taken] == [b"asked"] * 3
    assert len({vault.keys.load(blob) for blob in stock}) == SEVERAL


def test_no_two_threads_get_the_same_id(vault: Vault) -> None:
    spare, found = Ahead(vault, SEVERAL), dict[str, bytes]()

    def ask(who: int) -> None:
        for n in range(25):
            asked = f"{who} {n}".encode()
            found[spare.put(asked)] = asked

    threads = [threading.Thread(target=ask, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 200
    assert {blob: vault.read(blob) for blob in found} == found


def test_without_stock_each_key_is_made_when_it_is_needed(vault: Vault) -> None:
    blob = Ahead(vault, 0).put(b"asked")

    assert list(vault.ids()) == [blob]


def test_a_key_that_waited_too_long_is_left_to_the_sweep(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    spare, stock = filled(vault)
    monkeypatch.setattr(ahead, "LONGEST", 0.0)

    assert spare.put(b"asked") not in stock
    assert timedelta(seconds=LONGEST) * 2 <= ABANDONED


def test_a_key_that_was_swept_under_its_process_is_not_sealed_with(vault: Vault) -> None:
    spare, stock = filled(vault)
    for blob in stock:
        vault.shred(blob)

    blob = spare.put(b"asked")

    assert blob not in stock and vault.read(blob) == b"asked"
    assert set(vault.ids()).isdisjoint(stock)


def test_living_spare_keys_outlast_the_sweep_and_old_ones_do_not(home: Home) -> None:
    _, stock = filled(home.vault)
    was = int((time.time() - (ABANDONED + timedelta(minutes=1)).total_seconds()) * 1000)
    old = f"up_{was:012x}{'0' * 16}"
    home.vault.keys.create([old])
    assert ids.made_at(old) < ids.made_at(min(stock)) - ABANDONED

    swept = erasure.sweep_abandoned(home, ABANDONED)

    assert swept == 1
    assert stock <= set(home.vault.keys.ids()) and old not in home.vault.keys.ids()


def test_what_a_killed_process_leaves_over_is_a_few_keys_without_blobs(vault: Vault, tmp_path: Path) -> None:
    for words in (1, 3, 9):
        process = subprocess.Popen([sys.executable, "-c", ENDLESS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(words):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()

    visible = [blob for blob in vault.blobs.ids() if (tmp_path / "blobs" / f"{blob}.blob").exists()]
    unused = set(vault.keys.ids()).difference(visible)

    assert [vault.read(blob) for blob in visible] == [b"one"] * len(visible)
    assert 0 < len(unused) <= 3 * 8
    assert all(blob.startswith("up_") for blob in unused)
