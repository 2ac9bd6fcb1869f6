"""The database: short reads of one moment, and writes that keep out of each other's way."""

from __future__ import annotations

import math
import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial
from typing import Any

from sqlalchemy import DateTime, Engine, TypeDecorator, create_engine, event
from sqlalchemy.exc import InterfaceError, InvalidatePoolError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.orm import Session

OUTAGE = (OperationalError, InterfaceError, NoConnection)
"""What a database raises that cannot be reached, stops, or is too busy; never what wrong data raise."""

PATIENT = {
    # A peer that vanished without a word (pulled cable, frozen host) is given up after seconds, not after TCP's two hours.
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "application_name": "expunge",
    # A process frozen within a transaction must not keep its row locks for longer than its lease.
    "options": "-c idle_in_transaction_session_timeout=10s -c lock_timeout=10s -c statement_timeout=60s -c timezone=UTC"
    " -c default_transaction_isolation=read\\ committed",
}
"""How PostgreSQL is connected to; every wait has an end."""


IDLE = 1.0
"""Seconds after which a pooled connection is tried before it is used: each try costs a round trip."""


class Instant(TypeDecorator[datetime]):
    """A moment in UTC. SQLite forgets the zone; this gives it back."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


def now() -> datetime:
    """By this machine's clock."""
    return datetime.now(UTC)


def moment(session: Session) -> datetime:
    """By the one clock that all processes of a service share: the database's, or, in one process, this machine's.

    Whatever is compared with what another process wrote (leases, whose turn it is, what is due) is told by this clock: a machine whose
    own is wrong must neither lose its leases nor take those of others.
    """
    if session.get_bind().dialect.name != "postgresql":
        return now()
    # Not the transaction's own now(): it may have waited for a lock since.
    found: datetime = session.connection().exec_driver_sql("SELECT clock_timestamp()").scalar_one()
    return found.astimezone(UTC)


class Database:
    """One engine and, on SQLite, one process-wide write lock.

    Eight writer threads on SQLite without the lock starved one of them past its lease; with it, none. PostgreSQL lets writers run side
    by side: there a read is one snapshot (repeatable read), a write sees what others commit (read committed), and what two must not do
    at once is named in `service.locks`.
    """

    def __init__(self, url: str, *, connections: int = 20) -> None:
        sqlite = url.startswith("sqlite")
        self.engine: Engine = (
            create_engine(url, connect_args={"timeout": 10})
            if sqlite
            else create_engine(url, connect_args=PATIENT, pool_size=connections, max_overflow=connections, pool_timeout=10)
        )
        self._lock = threading.Lock() if sqlite else nullcontext()
        if sqlite:
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
            self._reader, self._writer = self.engine, self.engine.execution_options(expunge_write=True)
            self._glancer = self.engine
        else:
            try_after_rest(self.engine)
            self._glancer = self.engine.execution_options(isolation_level="AUTOCOMMIT")
            self._reader = self.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            # Read committed, which PATIENT asks for: naming it again would be a call at each use.
            self._writer = self.engine.execution_options()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session for reading: one consistent snapshot."""
        with Session(self._reader, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def glance(self) -> Iterator[Session]:
        """A session for a single question, which needs no transaction to be of one moment."""
        with Session(self._glancer, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction: committed when the block ends, rolled back when it raises."""
        with self._lock, Session(self._writer, expire_on_commit=False, info={"writes": True}) as session, session.begin():
            yield session

    def close(self) -> None:
        self.engine.dispose()


def try_after_rest(engine: Engine) -> None:
    """Try connections of this engine that have rested before they are used again."""
    event.listen(engine, "checkin", _note_use)
    event.listen(engine, "checkout", partial(_try_if_idle, engine))


def _note_use(connection: Any, record: Any) -> None:
    record.info["used"] = time.monotonic()


def _try_if_idle(engine: Engine, connection: Any, record: Any, _: Any) -> None:
    """Try a connection that has rested, or been spoken to, before it is used again: a server that restarted must not fail a caller."""
    if time.monotonic() - record.info.get("used", math.inf) > IDLE or _spoken_to(connection):
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise InvalidatePoolError from error


def _spoken_to(connection: Any) -> bool:
    """Whether something came, unasked, on a connection at rest: that it was closed, most likely."""
    ear = select.poll()
    ear.register(connection.fileno(), select.POLLIN)
    return bool(ear.poll(0))


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # the driver's own BEGIN comes too late and is never IMMEDIATE
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON", "busy_timeout=10000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Any) -> None:
    immediate = connection.get_execution_options().get("expunge_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
