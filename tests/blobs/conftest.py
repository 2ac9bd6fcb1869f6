"""Where the blob tests run: every adapter passes the same suite, on a real server. A new adapter is one more entry in ADAPTERS."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import psycopg
import pytest
from moto.server import ThreadedMotoServer

from service import migrate
from service.blobs import Vault, open_vault
from service.blobs.postgres import PostgresStore
from tests.servers import Server, postgres_bin, private_postgres

BUCKET = "expunge-blobs"


@dataclass(frozen=True)
class Place:
    """One empty vault, and what only a test may know of it."""

    vault: Vault

    address: str
    """An expression that opens the same vault in another process."""

    at_rest: Callable[[], bytes]
    """Every byte that the adapter keeps, keys and names among them; empty when nothing is stored."""


def _place(blobs: str, root: Path, stored: Callable[[], bytes], database_url: str | None = None) -> Place:
    keys = root / "keys"
    address = (
        f"__import__('service.blobs', fromlist=['x']).open_vault({blobs!r}, __import__('pathlib').Path({str(keys)!r}), "
        f"data_dir=__import__('pathlib').Path({str(root)!r}), database_url={database_url!r})"
    )
    vault = open_vault(blobs, keys, data_dir=root, database_url=database_url)
    return Place(vault, address, lambda: stored() + _files(keys))


def _files(root: Path) -> bytes:
    return b"".join(os.fsencode(file.name) + file.read_bytes() for file in sorted(root.rglob("*")))


def _directory(root: Path, request: pytest.FixtureRequest) -> Place:
    return _place("directory:", root, lambda: _files(root / "blobs"))


def _postgres(root: Path, request: pytest.FixtureRequest) -> Place:
    url = request.getfixturevalue("blob_database")

    def rows() -> bytes:
        with psycopg.connect(url.replace("+psycopg", "")) as connection, connection.cursor(binary=True) as cursor:
            found = cursor.execute("SELECT blob, trailer FROM blobs UNION ALL SELECT blob, data FROM blob_chunks").fetchall()
        return b"".join(blob.encode() + (data or b"") for blob, data in found)

    place = _place("postgres:", root, rows, url)
    assert isinstance(place.vault.blobs, PostgresStore)
    request.addfinalizer(place.vault.blobs.close)  # Hundreds of vaults in one process would use up the server's connections.
    return place


_prefixes = itertools.count()


def _s3(root: Path, request: pytest.FixtureRequest) -> Place:
    endpoint = request.getfixturevalue("bucket_server")
    prefix = f"place-{next(_prefixes)}/of one test"
    client = boto3.client("s3", endpoint_url=endpoint)

    def objects() -> bytes:
        found = b""
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix):
            for entry in page.get("Contents", []):
                name = entry["Key"].removeprefix(prefix)
                found += name.encode() + client.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read()
        return found

    return _place(f"s3://{BUCKET}/{prefix}?endpoint={endpoint}", root, objects)


ADAPTERS = {"directory": _directory, "postgres": _postgres, "s3": _s3}


@pytest.fixture(scope="session")
def blob_server() -> Iterator[Server]:
    """One PostgreSQL for all tests that neither stop nor break it."""
    if postgres_bin() is None:
        pytest.skip("PostgreSQL (initdb, postgres) is not installed")
    with private_postgres() as server:
        migrate.upgrade(server.url)
        yield server


@pytest.fixture
def blob_database(blob_server: Server) -> str:
    """The address of a database with the tables, and nothing in them."""
    with psycopg.connect(blob_server.url.replace("+psycopg", "")) as connection:
        connection.execute("TRUNCATE blobs, blob_chunks")
    return blob_server.url


@pytest.fixture(scope="session")
def bucket_server() -> Iterator[str]:
    """The address of a server that speaks S3, with one bucket; access keys for it are in the environment, as in service."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "DEFAULT_REGION"):
            patch.setenv(f"AWS_{name}", "us-east-1")
        boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket=BUCKET)
        yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=ADAPTERS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty vault with a way in from another process and a view of all its bytes at rest."""
    return ADAPTERS[request.param](tmp_path, request)


@pytest.fixture
def vault(place: Place) -> Vault:
    """An empty vault."""
    return place.vault


@pytest.fixture
def address(place: Place) -> str:
    """An expression that opens the vault in another process."""
    return place.address


@pytest.fixture
def at_rest(place: Place) -> Callable[[], bytes]:
    """Everything that the vault keeps, as bytes."""
    return place.at_rest


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root from which another process imports the same code."""
    return Path(__file__).parents[2]


@pytest.fixture(scope="session")
def own_mounts() -> list[str]:
    """The command prefix under which a mount is seen by that process alone and ends with it."""
    unshare = shutil.which("unshare")
    probe = [str(unshare), "--mount", "--propagation", "private", "mount", "-t", "tmpfs", "probe", "/mnt"]
    if unshare is None or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("no right to a private mount: the full-disk tests need one")
    return [unshare, "--mount", "--propagation", "private"]
