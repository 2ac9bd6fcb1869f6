"""What the service's tests run on: the same record on SQLite and on PostgreSQL, the same API in one process and over servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import Cluster, Live
from tests.servers import Server, fresh_database


@pytest.fixture(params=["sqlite", "postgresql"])
def record(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of an empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'record.sqlite3'}"
    else:
        with fresh_database(request.getfixturevalue("postgres")) as url:
            yield url


@pytest.fixture(scope="session")
def distributed(postgres: Server, redis_server: Server, tmp_path_factory: pytest.TempPathFactory, upload: bytes) -> Iterator[Live]:
    """One API and one worker for all tests of a session, with the data set `digits`."""
    with fresh_database(postgres) as url:
        service = Cluster(tmp_path_factory.mktemp("distributed"), database_url=url, redis_url=redis_server.url)
        service.upload("digits", upload)
        yield service
        service.stop()


@pytest.fixture(scope="session", params=["embedded", pytest.param("distributed", marks=pytest.mark.slow)])
def live(request: pytest.FixtureRequest) -> Live:
    """The service in each form, over servers in `make slow` alone unless a test says BOTH_FORMS.

    Both fixtures stay for the session; this one, being parametrised, is made anew at every change.
    """
    service: Live = request.getfixturevalue(request.param)
    return service
