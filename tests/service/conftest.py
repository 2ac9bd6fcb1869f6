"""What the service's tests run on: the same record on SQLite and on PostgreSQL, the same API in one process and over servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import Cluster, Live
from tests.servers import fresh_database


@pytest.fixture(params=["sqlite", "postgresql"])
def record(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of an empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'record.sqlite3'}"
    else:
        with fresh_database(request.getfixturevalue("postgres")) as url:
            yield url


@pytest.fixture(scope="session", params=["embedded", "distributed"])
def live(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, upload: bytes) -> Iterator[Live]:
    """One service of each form for all tests of a session, with the data set `digits`; every test makes its own model."""
    directory = tmp_path_factory.mktemp(request.param)
    if request.param == "embedded":
        yield from _with_digits(Live(directory), upload)
    else:
        redis_url = request.getfixturevalue("redis_server").url
        with fresh_database(request.getfixturevalue("postgres")) as url:
            yield from _with_digits(Cluster(directory, database_url=url, redis_url=redis_url), upload)


def _with_digits(service: Live, upload: bytes) -> Iterator[Live]:
    service.upload("digits", upload)
    yield service
    service.stop()
