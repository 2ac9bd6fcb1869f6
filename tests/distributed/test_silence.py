"""A PostgreSQL that is frozen: its kernel acknowledges all that is sent, and no answer ever comes."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import text

from service import connections, migrate
from service.blobs import StoreUnavailable
from service.blobs.postgres import PostgresStore
from service.db import OUTAGE, Database
from service.leader import Leader
from tests.servers import Server, no_servers, private_postgres

SILENCE = 1.0


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A PostgreSQL of one test's own, and clients that soon lose patience."""
    if missing := no_servers():
        pytest.skip(missing)
    monkeypatch.setattr(connections, "SILENCE", SILENCE)
    with private_postgres() as server:
        migrate.upgrade(server.url)
        yield server
        server.signal(signal.SIGCONT)


def seconds_until_given_up(work: Callable[[], object], *errors: type[Exception]) -> float:
    began = time.monotonic()
    with pytest.raises(errors):
        work()
    return time.monotonic() - began


def ask(db: Database) -> object:
    with db.write() as session:
        return session.execute(text("SELECT 1")).scalar()


def test_a_question_to_a_frozen_server_ends_and_the_next_to_one_that_goes_on_is_answered(server: Server) -> None:
    db, store = Database(server.url), PostgresStore(server.url)
    store.write("up-1", [b"chunk", b"trailer"])
    assert ask(db) == 1

    server.signal(signal.SIGSTOP)
    waited = [seconds_until_given_up(lambda: ask(db), *OUTAGE), seconds_until_given_up(lambda: store.end("up-1"), StoreUnavailable)]
    server.signal(signal.SIGCONT)

    assert all(SILENCE <= seconds < SILENCE + 8 for seconds in waited)
    assert ask(db) == 1
    assert store.end("up-1").trailer == b"trailer"
    db.close()
    store.close()


def test_a_transaction_that_a_frozen_server_does_not_commit_is_given_up(server: Server) -> None:
    db = Database(server.url)

    def freeze_before_the_commit() -> None:
        with db.write() as session:
            session.execute(text("SELECT 1"))
            server.signal(signal.SIGSTOP)

    assert seconds_until_given_up(freeze_before_the_commit, *OUTAGE) < SILENCE + 8
    db.close()


def test_who_leads_stops_leading_when_the_server_is_frozen(server: Server) -> None:
    leader = Leader(server.url, "dispatcher")
    assert leader.leads()

    server.signal(signal.SIGSTOP)
    found: list[bool] = []
    asking = threading.Thread(target=lambda: found.append(leader.leads()))
    asking.start()
    asking.join(SILENCE + 8)

    assert found == [False]


def test_a_server_that_works_has_longer_than_it_gives_itself() -> None:
    assert connections.STATEMENT < connections.SILENCE
    assert f"statement_timeout={connections.STATEMENT}s" in str(connections.PATIENT["options"])
