"""The demo, run once in its small form; and what it leaves behind, checked after its service has ended."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expunge import example
from expunge.verify import FILES, STEPS
from tests.cli.conftest import ROOT, expunge

pytestmark = pytest.mark.xdist_group("demo")


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """What the demo left in its directory, and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    done = expunge("demo", "--out", "left", "--epochs", "4", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    yield folder / "left", done.stdout


def test_the_demo_shows_one_table_and_both_hashes_agree(left: tuple[Path, str]) -> None:
    directory, printed = left
    summary = json.loads((directory / "summary.json").read_text())
    hashes = summary["sha256_of_user_weights"]

    assert all(word in printed for word in ("before", "after", "retrained", "to forget", "to retrain", "Proved.", "Not proved."))
    assert hashes["after"] == hashes["retrained"] != hashes["before"]
    assert summary["accuracy"]["forgotten"]["after"] == summary["accuracy"]["forgotten"]["retrained"]
    assert {group: cell["after"]["n"] for group, cell in summary["accuracy"].items()} == {"test": 300, "forgotten": 25, "kept": 724}
    assert len((directory / "forgotten.txt").read_text().split()) == 25


def test_its_version_verifies_in_an_empty_directory_without_any_service(left: tuple[Path, str], tmp_path: Path) -> None:
    directory, _ = left
    fingerprint = (directory / "fingerprint.txt").read_text().strip()

    pinned = expunge("verify", str(directory / "v2"), "--fingerprint", fingerprint, cwd=tmp_path)
    unknown = expunge("verify", str(directory / "v2"), cwd=tmp_path)
    other = expunge("verify", str(directory / "v2"), "--fingerprint", "00" * 32, cwd=tmp_path)

    assert (pinned.returncode, unknown.returncode, other.returncode) == (0, 2, 1)
    assert [line.split("  ")[-1] for line in pinned.stdout.splitlines() if line[:1].isdigit()] == list(STEPS)
    assert "signer unknown" in unknown.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_of_any_file_is_refused_with_the_step_named(left: tuple[Path, str], name: str, tmp_path: Path) -> None:
    copy = tmp_path / "v2"
    shutil.copytree(left[0] / "v2", copy)
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(bytes(data))

    done = expunge("verify", str(copy), "--fingerprint", (left[0] / "fingerprint.txt").read_text().strip(), "--json", cwd=tmp_path)

    assert done.returncode == 1
    assert json.loads(done.stdout)["failed"] in STEPS[1:]


@pytest.mark.slow
def test_its_version_is_reproduced_from_the_raw_file(left: tuple[Path, str], tmp_path: Path) -> None:
    directory, _ = left

    done = expunge("reproduce", str(directory / "v2"), "--data", str(directory / "digits.parquet"), "--forgotten",
                   str(directory / "forgotten.txt"), cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" equal ") == 3


@pytest.mark.slow
def test_a_wrong_list_of_the_forgotten_does_not_reproduce_it(left: tuple[Path, str], tmp_path: Path) -> None:
    directory, _ = left
    names = (directory / "forgotten.txt").read_text().split()
    (tmp_path / "one-less.json").write_text(json.dumps(names[1:]))

    done = expunge("reproduce", str(directory / "v2"), "--data", str(directory / "digits.parquet"), "--forgotten", "one-less.json",
                   "--json", cwd=tmp_path)

    found = json.loads(done.stdout)
    assert done.returncode == 3
    assert (found["left_out"], found["forgotten"]) == (24, 25)
    assert "Other samples went in" in found["meaning"]
    assert 0 < found["largest"] < found["size"]


HOLD = """
import sys, time
from pathlib import Path
from expunge import embedded
with embedded.service(Path(sys.argv[1])) as running:
    print(running.pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_whoever_holds_a_service_takes_it_along_however_it_ends(number: signal.Signals, tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                              cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert holder.stdout is not None
    service = int(holder.stdout.readline())

    holder.send_signal(number)
    holder.wait(30)

    holder.stdout.close()
    assert holder.returncode != 0
    assert ended(service)


@pytest.mark.slow
def test_a_demo_that_is_told_to_end_takes_its_service_and_its_data_along(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path / "tmp")}
    demo = subprocess.Popen([sys.executable, "-m", "expunge.cli", "demo", "--out", str(tmp_path / "out")], stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL, text=True, cwd=tmp_path, env=environment)
    assert demo.stdout is not None
    while "start:" not in demo.stdout.readline():
        pass
    service = int(Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split()[0])

    demo.terminate()
    demo.wait(30)

    demo.stdout.close()
    assert demo.returncode == 128 + signal.SIGTERM
    assert ended(service)
    assert not list((tmp_path / "tmp").glob("expunge-demo-*"))


def ended(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not Path(f"/proc/{pid}").exists()


def test_without_subjects_twenty_five_user_rows_are_drawn_and_features_get_an_mlp(tmp_path: Path) -> None:
    draw = np.random.default_rng(3).normal(size=(100, 4)).astype(np.float32)
    pq.write_table(pa.table({"sample_id": [f"r{i}" for i in range(100)], "role": ["core", "user"] * 50, "label": ["a", "b"] * 50,
                             "features": pa.FixedSizeListArray.from_arrays(draw.reshape(-1), 4)}), tmp_path / "own.parquet")

    plan = example.choose(tmp_path / "own.parquet", seed=1)

    assert (plan.architecture, plan.subject, len(set(plan.gone))) == ("mlp", None, 25)
    assert plan == example.choose(tmp_path / "own.parquet", seed=1) != example.choose(tmp_path / "own.parquet", seed=2)


def test_the_subject_nearest_to_25_rows_is_chosen_and_none_with_core_rows(tmp_path: Path) -> None:
    people = [("user", "few")] * 5 + [("user", "fits")] * 22 + [("user", "mixed")] * 25 + [("core", "mixed"), ("core", None)]
    rows = len(people)
    features = pa.FixedSizeListArray.from_arrays(pa.array([0.0] * rows, pa.float32()), 1)
    pq.write_table(pa.table({"sample_id": [f"r{i}" for i in range(rows)], "role": [role for role, _ in people], "label": [0] * rows,
                             "subject_id": pa.array([s for _, s in people], pa.string()), "features": features}), tmp_path / "own.parquet")

    plan = example.choose(tmp_path / "own.parquet", seed=0)

    assert (plan.subject, len(plan.gone)) == ("fits", 22)
