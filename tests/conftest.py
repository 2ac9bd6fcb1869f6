"""Fixtures for tests that talk to a running service."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.digits import Digits, digits, parquet
from tests.live import Live
from tests.servers import Server, no_servers, private_postgres, private_redis

# A shell that starts the tests in the background has them ignore Ctrl-C, and what they start inherits that: tests that send it would wait.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data() -> Digits:
    return digits()


@pytest.fixture(scope="session")
def upload(data: Digits, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return parquet(data, tmp_path_factory.mktemp("parquet") / "digits.parquet")


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory, upload: bytes) -> Iterator[Live]:
    """One service for all tests of a session, with the data set `digits`; every test makes its own model."""
    service = Live(tmp_path_factory.mktemp("embedded"))
    service.upload("digits", upload)
    yield service
    service.stop()


@pytest.fixture(scope="session")
def live(embedded: Live) -> Live:
    """The service that a test talks to."""
    return embedded


@pytest.fixture
def own_live(tmp_path: Path, upload: bytes) -> Iterator[Live]:
    """A service of one test's own, which it may kill."""
    service = Live(tmp_path)
    service.upload("digits", upload)
    yield service
    service.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL for all tests of a session, each with a database of its own; nobody stops it."""
    _needs_servers()
    with private_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    """A Redis for all tests of a session; nobody stops it."""
    _needs_servers()
    with private_redis() as server:
        yield server


def _needs_servers() -> None:
    missing = no_servers()
    if missing:
        pytest.skip(missing)
