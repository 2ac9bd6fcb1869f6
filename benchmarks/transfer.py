"""MB/s in and out of the store in PostgreSQL, beside `psql` COPY of the same bytes, the store in a directory, and a static file server.

A private server with its durable settings; every contender moves the same plaintext, COPY the rows that the store made of it. The
clocks stop when the bytes are durable, or have all arrived.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg

from benchmarks.clock import Contender, Timing, in_turns
from benchmarks.data import DataMissing
from benchmarks.outcome import Goal, Outcome, Table, progress, times
from service import migrate
from service.blobs import Vault, open_vault
from service.blobs.port import CHUNK
from tests.servers import Server, postgres_bin, private_postgres

NAME = "transfer"
MINUTES = 2

STORE = "blobs in PostgreSQL: sealed, rows of 1 MiB"
COPY = "psql COPY, binary, of the same rows"
DIRECTORY = "blobs in a directory: sealed, fsync"
FILE = "a file: written and fsync / python -m http.server"


@dataclass(frozen=True)
class Setting:
    """What the contenders share."""

    plain: Path
    """The bytes that are moved."""
    size: int
    server: Server
    folder: Path
    postgres: Vault
    directory: Vault
    url: str
    """Where the static file server has the same bytes."""


def run(mib: int = 256, *, repeats: int = 5) -> Outcome:
    """Measure with a blob of `mib` MiB that does not compress."""
    if postgres_bin() is None or shutil.which("psql") is None:
        raise DataMissing("PostgreSQL (initdb, postgres, psql) is not installed")
    with tempfile.TemporaryDirectory(prefix="expunge-bench-") as name, private_postgres(fsync="on", max_wal_size="4GB") as server:
        folder = Path(name)
        migrate.upgrade(server.url)
        plain = folder / "plain.bin"
        with plain.open("wb") as file:
            for _ in range(mib):
                file.write(os.urandom(CHUNK))
        with _static(folder) as url:
            postgres = open_vault("postgres:", folder / "keys", data_dir=folder, database_url=server.url)
            directory = open_vault("directory:", folder / "other keys", data_dir=folder, database_url=None)
            return measured(Setting(plain, mib * CHUNK, server, folder, postgres, directory, url), repeats=repeats)


def measured(setting: Setting, *, repeats: int) -> Outcome:
    """Time all of them in turns, both ways, and check that what came back is what went in."""
    digest = hashlib.sha256(setting.plain.read_bytes()).hexdigest()
    for vault in (setting.postgres, setting.directory):
        vault.put("kept", setting.plain.read_bytes())
        assert hashlib.sha256(vault.read("kept")).hexdigest() == digest
    _sql(setting, "CREATE TABLE copied (LIKE blob_chunks INCLUDING STORAGE INCLUDING INDEXES)")
    _psql(setting, f"\\copy blob_chunks to '{setting.folder / 'rows.bin'}' with (format binary)")
    progress(f"{repeats} rounds of {setting.size / 1e6:,.0f} MB, in and out")
    return outcome_of(in_turns(_ways_in(setting), repeats=repeats), in_turns(_ways_out(setting), repeats=repeats), setting.size)


def _ways_in(setting: Setting) -> dict[str, Contender]:
    def fresh(vault: Vault) -> None:
        vault.shred("up")
        _sql(setting, "TRUNCATE copied")
        _sql(setting, "VACUUM blob_chunks")
        _sql(setting, "CHECKPOINT")

    def put(vault: Vault) -> None:
        with setting.plain.open("rb") as source:
            vault.put("up", source)

    def write() -> None:
        with setting.plain.open("rb") as source, (setting.folder / "written.bin").open("wb") as target:
            shutil.copyfileobj(source, target, CHUNK)
            target.flush()
            os.fsync(target.fileno())

    rows = f"\\copy copied from '{setting.folder / 'rows.bin'}' with (format binary)"
    return {
        STORE: Contender(lambda _: put(setting.postgres), partial(fresh, setting.postgres)),
        COPY: Contender(lambda _: _psql(setting, rows), partial(fresh, setting.postgres)),
        DIRECTORY: Contender(lambda _: put(setting.directory), partial(fresh, setting.directory)),
        FILE: Contender(lambda _: write()),
    }


def _ways_out(setting: Setting) -> dict[str, Contender]:
    def stream(vault: Vault) -> None:
        assert sum(len(piece) for piece in vault.stream("kept")) == setting.size

    def download() -> None:
        with urllib.request.urlopen(setting.url) as answer:
            assert sum(len(piece) for piece in iter(partial(answer.read, CHUNK), b"")) == setting.size

    rows = "\\copy (select * from blob_chunks where blob = 'kept' order by number) to '/dev/null' with (format binary)"
    return {
        STORE: Contender(lambda _: stream(setting.postgres)),
        COPY: Contender(lambda _: _psql(setting, rows)),
        DIRECTORY: Contender(lambda _: stream(setting.directory)),
        FILE: Contender(lambda _: download()),
    }


def outcome_of(into: dict[str, Timing], out: dict[str, Timing], size: int) -> Outcome:
    """Write the table of MB/s. The issue asks for the figures and sets no goal; half of COPY is what this project asks of itself."""
    rate = {name: (size / into[name].median / 1e6, size / out[name].median / 1e6) for name in into}
    rows = tuple((name, f"{up:,.0f} MB/s", f"{down:,.0f} MB/s") for name, (up, down) in rate.items())
    goals = []
    for way, number in (("in", 0), ("out", 1)):
        share = rate[STORE][number] / rate[COPY][number]
        goals.append(Goal(f"{way}, sealed, beside COPY of the same bytes", ">= 0.5x", times(share), share >= 0.5))
    note = (
        f"Medians of {len(into[STORE].seconds)} rounds of {size / 1e6:,.0f} MB. Stores encrypt, hash and authenticate on one core; COPY "
        "moves what the store has sealed before, and the file server plain bytes. Client and server share the cores of one machine."
    )
    numbers = {
        "bytes": size,
        "in_seconds": {name: timing.seconds for name, timing in into.items()},
        "out_seconds": {name: timing.seconds for name, timing in out.items()},
    }
    table = Table("One large blob", ("how", "in", "out"), rows, note)
    return Outcome(NAME, "Bytes in and out: the store in PostgreSQL beside COPY and files", (table,), tuple(goals), numbers)


def _sql(setting: Setting, statement: str) -> None:
    with psycopg.connect(setting.server.url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(statement.encode())


def _psql(setting: Setting, command: str) -> None:
    address = setting.server.url.replace("+psycopg", "")
    subprocess.run(["psql", "-q", "-X", "-v", "ON_ERROR_STOP=1", "-d", address, "-c", command], check=True, stdout=subprocess.DEVNULL)


@contextmanager
def _static(folder: Path) -> Iterator[str]:
    """Serve `folder` with Python's own file server; gives the address of the plaintext."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        port = server.stdout.readline().split(" port ")[1].split()[0]
        try:
            yield f"http://127.0.0.1:{port}/plain.bin"
        finally:
            server.terminate()
