"""Records on both databases, and real servers that a test may stop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service import migrate
from service.db import Database
from tests.servers import Server, fresh_database, no_servers, private_postgres, private_redis


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    missing = no_servers()
    if missing:
        pytest.skip(missing)
    with private_postgres() as server:
        yield server


@pytest.fixture
def redis() -> Iterator[Server]:
    missing = no_servers()
    if missing:
        pytest.skip(missing)
    with private_redis() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty record, migrated."""
    if request.param == "sqlite":
        yield from _opened(f"sqlite:///{tmp_path / 'a.sqlite3'}")
    else:
        with fresh_database(request.getfixturevalue("postgres")) as url:
            yield from _opened(url)


def _opened(url: str) -> Iterator[Database]:
    migrate.upgrade(url)
    database = Database(url)
    yield database
    database.close()
