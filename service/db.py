"""The database: short reads of one moment, and writes that keep out of each other's way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, Engine, TypeDecorator, create_engine, event
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.orm import Session

OUTAGE = (OperationalError, InterfaceError, NoConnection)
"""What a database raises that cannot be reached, stops, or is too busy; never what wrong data raise."""


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
        self._lock = threading.Lock() if sqlite else nullcontext()
        if sqlite:
            self.engine: Engine = create_engine(url, connect_args={"timeout": 10})
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
            self._reader, self._writer = self.engine, self.engine.execution_options(expunge_write=True)
            self._glancer = self.engine
        else:
            from service.connections import open_engine  # with its driver, which an embedded service does without

            self.engine = open_engine(url, pool_size=connections, max_overflow=connections, pool_timeout=10)
            self._glancer = self.engine.execution_options(isolation_level="AUTOCOMMIT")
            self._reader = self.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            # Read committed, which every connection asks for: naming it again would be a call at each use.
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


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # the driver's own BEGIN comes too late and is never IMMEDIATE
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON", "busy_timeout=10000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Any) -> None:
    immediate = connection.get_execution_options().get("expunge_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
