"""What is true of PostgreSQL alone: rows, connections, a server that falls, and a writer that does not know it has lost."""

from __future__ import annotations

import random
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic import command

from service import migrate
from service.blobs import BlobDamaged, BlobExists, BlobMissing, KeyMissing, StoreUnavailable, Vault, open_vault
from service.blobs.port import CHUNK, RECORD
from service.blobs.postgres import PostgresStore
from tests.servers import Server, postgres_bin, private_postgres

PLAIN = random.Random(8).randbytes(5 * CHUNK)
MARKER = b"MARKER-of-a-person-51c0de"


def query(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


@contextmanager
def opened(url: str, root: Path) -> Iterator[Vault]:
    vault = open_vault("postgres:", root / "keys", data_dir=root, database_url=url)
    assert isinstance(vault.blobs, PostgresStore)
    yield vault
    vault.blobs.close()


@pytest.fixture
def vault(blob_database: str, tmp_path: Path) -> Iterator[Vault]:
    with opened(blob_database, tmp_path) as vault:
        yield vault


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A server of one test's own, which it may break. What was not flushed stays in memory for seconds, and is lost with it."""
    if postgres_bin() is None:
        pytest.skip("PostgreSQL (initdb, postgres) is not installed")
    with private_postgres(wal_writer_delay="10s", wal_buffers="64MB", autovacuum="off") as server:
        migrate.upgrade(server.url)
        yield server


@pytest.fixture
def own_vault(own_server: Server, tmp_path: Path) -> Iterator[Vault]:
    with opened(own_server.url, tmp_path) as vault:
        yield vault


def test_a_chunk_is_a_row_of_a_mebibyte_kept_as_it_is(vault: Vault, blob_database: str) -> None:
    vault.put("up-1", bytes(2 * CHUNK + 1))  # Zeros: anything that were compressed would be small.

    assert query(blob_database, "SELECT number, octet_length(data) FROM blob_chunks ORDER BY number") == [(0, RECORD), (1, RECORD), (2, 17)]
    kept = query(blob_database, "SELECT attstorage FROM pg_attribute WHERE attrelid = 'blob_chunks'::regclass AND attname = 'data'")
    assert kept == [("e",)]
    assert query(blob_database, "SELECT min(pg_column_size(data)) FROM blob_chunks WHERE number < 2") == [(RECORD,)]


def test_a_slow_client_holds_no_connection_and_no_transaction(vault: Vault, blob_database: str) -> None:
    busy = (
        "SELECT count(*), count(*) FILTER (WHERE state <> 'idle' OR backend_xmin IS NOT NULL)"
        " FROM pg_stat_activity WHERE application_name = 'expunge'"
    )
    seen = []

    def source() -> Iterator[bytes]:
        for i in range(0, len(PLAIN), CHUNK):
            yield PLAIN[i : i + CHUNK]
            seen.append(query(blob_database, busy)[0])

    vault.put("up-1", source())
    for _ in vault.stream("up-1"):
        seen.append(query(blob_database, busy)[0])

    assert len(seen) == 10
    assert {held for _, held in seen} == {0}
    assert min(connections for connections, _ in seen) >= 1  # The view shows them.


def test_an_unfinished_write_is_no_blob_and_blocks_its_id_until_shredded(vault: Vault, blob_database: str) -> None:
    query(blob_database, "INSERT INTO blobs (blob) VALUES ('up-1')")
    query(blob_database, "INSERT INTO blob_chunks (blob, number, data) VALUES ('up-1', 0, 'rest')")

    with pytest.raises(BlobMissing):
        vault.stat("up-1")
    with pytest.raises(BlobMissing):
        list(vault.blobs.records("up-1", 0, 1))
    with pytest.raises(BlobExists):
        vault.put("up-1", PLAIN)
    assert list(vault.ids()) == ["up-1"]
    vault.shred("up-1")
    assert query(blob_database, "SELECT count(*) FROM blob_chunks") == [(0,)]
    assert vault.put("up-1", PLAIN).size == len(PLAIN)


@pytest.mark.parametrize("at", [1, 3, 4])
def test_a_writer_whose_blob_was_removed_meanwhile_stores_nothing_more(vault: Vault, blob_database: str, at: int) -> None:
    left = []

    def source() -> Iterator[bytes]:
        for i in range(5):
            yield PLAIN[i * CHUNK : (i + 1) * CHUNK]
            if i == at:
                vault.blobs.remove("up-1")
            if i > at:
                left.append(i)

    with pytest.raises(StoreUnavailable):
        vault.put("up-1", source())

    assert left == []
    assert query(blob_database, "SELECT count(*) FROM blob_chunks") == [(0,)]
    assert list(vault.ids()) == []


def test_a_reader_of_a_blob_that_is_shredded_meanwhile_is_told_so(vault: Vault) -> None:
    vault.put("up-1", PLAIN)
    begun = vault.stream("up-1")
    assert next(begun) == PLAIN[:CHUNK]

    vault.shred("up-1")

    with pytest.raises(BlobMissing):
        list(begun)


@pytest.mark.parametrize("number", range(5))
def test_a_row_that_is_gone_is_noticed(vault: Vault, blob_database: str, number: int) -> None:
    vault.put("up-1", PLAIN)
    promised = vault.stream("up-1")

    query(blob_database, f"DELETE FROM blob_chunks WHERE number = {number}")

    with pytest.raises(BlobDamaged):
        vault.stat("up-1")
    given = bytearray()
    with pytest.raises(BlobDamaged, match=f"chunk {number} is not there"):
        for chunk in promised:
            given += chunk
    assert bytes(given) == PLAIN[: number * CHUNK]


def test_a_chunk_that_a_fallen_server_lost_is_missed_before_the_blob_appears(own_server: Server, own_vault: Vault) -> None:
    lost = []

    def source() -> Iterator[bytes]:
        yield PLAIN[:CHUNK]
        yield PLAIN[CHUNK : 2 * CHUNK]
        own_vault.put("up-2", b"its commit flushes the first chunk")
        yield PLAIN[2 * CHUNK : 3 * CHUNK]  # The second chunk is committed now, and in memory alone.
        own_server.stop("immediate")
        own_server.start()
        lost.append(query(own_server.url, "SELECT blob, number FROM blob_chunks ORDER BY 1, 2"))
        yield PLAIN[3 * CHUNK :]

    with pytest.raises(StoreUnavailable):
        own_vault.put("up-1", source())

    assert lost == [[("up-1", 0), ("up-2", 0)]]
    assert list(own_vault.ids()) == ["up-2"]
    assert own_vault.put("up-1", PLAIN).chunks == 5
    assert own_vault.read("up-1") == PLAIN


def test_what_was_put_survives_a_server_that_falls_the_moment_after(own_server: Server, own_vault: Vault) -> None:
    for turn in range(3):
        own_vault.put(f"up-{turn}", PLAIN)

        own_server.stop("immediate")
        own_server.start()

        assert own_vault.read(f"up-{turn}") == PLAIN
    own_vault.shred("up-0")
    own_server.kill()
    own_server.start()
    assert list(own_vault.ids()) == ["up-1", "up-2"]


@pytest.mark.parametrize("commits", [True, False])
def test_a_blob_left_to_the_next_commit_is_durable_with_it_and_not_before(own_server: Server, own_vault: Vault, commits: bool) -> None:
    query(own_server.url, "CREATE TABLE record (name text)")
    own_vault.put("up-1", b"asked", lasting=False)
    assert own_vault.read("up-1") == b"asked"

    if commits:
        query(own_server.url, "INSERT INTO record VALUES ('up-1')")
    own_server.stop("immediate")
    own_server.start()

    assert query(own_server.url, "SELECT name FROM record") == ([("up-1",)] if commits else [])
    if commits:
        assert own_vault.read("up-1") == b"asked"
    else:
        with pytest.raises(BlobMissing):
            own_vault.read("up-1")


def test_a_server_that_is_away_is_named_and_found_again(own_server: Server, own_vault: Vault) -> None:
    own_vault.put("up-1", PLAIN)
    reader = own_vault.stream("up-1")
    assert next(reader) == PLAIN[:CHUNK]

    def source() -> Iterator[bytes]:
        yield PLAIN
        own_server.stop("immediate")

    with pytest.raises(StoreUnavailable):
        own_vault.put("up-2", source())
    for use in (own_vault.read, own_vault.stat, own_vault.shred, lambda _: list(reader), lambda _: list(own_vault.ids())):
        with pytest.raises(StoreUnavailable) as raised:
            use("up-1")
        assert "127.0.0.1" not in str(raised.value)

    own_server.start()
    with pytest.raises(BlobMissing):
        own_vault.stat("up-2")  # Its key is gone and it never appeared; a sweep finds what is left.
    with pytest.raises(KeyMissing):
        own_vault.read("up-1")  # The shred had destroyed the key and could not reach the ciphertext.
    for blob_id in list(own_vault.ids()):
        own_vault.shred(blob_id)
    assert list(own_vault.ids()) == []


def test_after_shredding_neither_content_nor_key_is_in_any_file_of_the_server(own_server: Server, own_vault: Vault) -> None:
    own_vault.put("up-marked", MARKER * 200_000)
    key, trailer = own_vault.keys.load("up-marked"), own_vault.blobs.end("up-marked").trailer

    own_vault.shred("up-marked")
    query(own_server.url, "CHECKPOINT")

    files = [path.read_bytes() for path in (own_server.directory / "data").rglob("*") if path.is_file()]
    assert sum(trailer in content for content in files) >= 1  # The ciphertext is still there, in the log at least: the search sees it.
    assert not any(MARKER in content for content in files)
    assert not any(key in content for content in files)


ON_A_SMALL_DISK = """
    import os, pathlib, subprocess
    import psycopg
    from service import migrate
    from service.blobs import StoreFull, open_vault
    from tests.servers import private_postgres
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m,mode=0755", "small", "/mnt"], check=True)
    with private_postgres() as server:
        migrate.upgrade(server.url)
        os.mkdir("/mnt/small", 0o700)
        owner = server.directory.stat()
        os.chown("/mnt/small", owner.st_uid, owner.st_gid)
        with psycopg.connect(server.url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute("CREATE TABLESPACE small LOCATION '/mnt/small'")
            connection.execute("ALTER TABLE blob_chunks SET TABLESPACE small")
        pathlib.Path("/mnt/filler").write_bytes(bytes(1 << 20))
        root = pathlib.Path({root!r})
        vault = open_vault("postgres:", root / "keys", data_dir=root, database_url=server.url)
        vault.put("up-1", b"kept")
        try:
            vault.put("up-2", bytes(20 << 20))
        except StoreFull as error:
            print(error)
        assert list(vault.ids()) == ["up-1"], list(vault.ids())
        assert vault.read("up-1") == b"kept"
        vault.shred("up-1")
        assert list(vault.ids()) == []
        os.unlink("/mnt/filler")  # Vacuuming, which frees the rows' space, needs a little itself.
        with psycopg.connect(server.url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute("VACUUM blob_chunks")
        vault.put("up-2", b"room again")
        assert vault.read("up-2") == b"room again"
"""


def test_a_full_disk_is_named_keeps_nothing_and_does_not_stop_shredding(tmp_path: Path, repository: Path, own_mounts: list[str]) -> None:
    if postgres_bin() is None:
        pytest.skip("PostgreSQL (initdb, postgres) is not installed")
    script = textwrap.dedent(ON_A_SMALL_DISK.format(root=str(tmp_path)))

    done = subprocess.run([*own_mounts, sys.executable, "-c", script], cwd=repository, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout == "blob up-2: no room left to store it\n"


def test_the_tables_come_and_go_with_their_migration(own_server: Server) -> None:
    tables = "SELECT count(*) FROM pg_tables WHERE tablename IN ('blobs', 'blob_chunks')"
    assert query(own_server.url, tables) == [(2,)]

    command.downgrade(migrate.config(own_server.url), "0001")
    without = query(own_server.url, tables)
    migrate.upgrade(own_server.url)

    assert without == [(0,)]
    assert query(own_server.url, tables) == [(2,)]
