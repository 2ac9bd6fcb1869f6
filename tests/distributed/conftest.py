"""Real servers for tests of the distributed form."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service import migrate
from service.db import Database
from tests.live import Cluster
from tests.servers import Server, fresh_database


@pytest.fixture
def database_url(postgres: Server) -> Iterator[str]:
    """The address of an empty, migrated database on PostgreSQL."""
    with fresh_database(postgres) as url:
        migrate.upgrade(url)
        yield url


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def cluster(postgres: Server, redis_server: Server, tmp_path: Path, upload: bytes) -> Iterator[Callable[..., Cluster]]:
    """Starts services over servers, each with a database of its own; with the data set `digits` unless told otherwise."""
    started: list[Cluster] = []
    databases = []

    def start(*, digits: bool = True, redis_url: str = redis_server.url, **settings: str) -> Cluster:
        place = fresh_database(postgres)
        databases.append(place)
        directory = tmp_path / str(len(started))
        directory.mkdir()
        service = Cluster(directory, database_url=place.__enter__(), redis_url=redis_url, **settings)
        started.append(service)
        if digits:
            service.upload("digits", upload)
        return service

    yield start
    for service in started:
        service.stop()
    for place in databases:
        place.__exit__(None, None, None)
