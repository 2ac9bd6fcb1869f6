"""Connections to PostgreSQL: tried after a rest before they are used, and given up when the server says nothing. Every wait has an end."""

from __future__ import annotations

import math
import select
import time
from functools import partial
from typing import Any

import psycopg
from psycopg.abc import PQGen
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import InvalidatePoolError

STATEMENT = 60
"""Seconds after which the server ends a statement."""

SILENCE = STATEMENT + 15.0
"""Seconds after which a server that has not answered is given up.

A server that works ends a statement itself before that. One that is frozen (SIGSTOP, a virtual machine that is paused, a disk that
hangs) does not; and since its kernel goes on acknowledging what is sent, neither keepalives nor `tcp_user_timeout` notice.
"""

PATIENT = {
    # A peer that vanished without a word (pulled cable, host gone) is given up after seconds, not after TCP's two hours: while it is
    # waited for by `keepalives`, while something sent is not acknowledged by `tcp_user_timeout`.
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "application_name": "expunge",
    # A process frozen within a transaction must not keep its row locks for longer than its lease.
    "options": f"-c idle_in_transaction_session_timeout=10s -c lock_timeout=10s -c statement_timeout={STATEMENT}s -c timezone=UTC"
    " -c default_transaction_isolation=read\\ committed",
}
"""How PostgreSQL is connected to."""

IDLE = 1.0
"""Seconds after which a pooled connection is tried before it is used: each try costs a round trip."""


class Connection(psycopg.Connection[Any]):
    """The driver's, which by itself waits for an answer for as long as none comes."""

    def wait(self, gen: PQGen[Any], interval: float = 0.1, timeout: float | None = None) -> Any:
        """Wait for the answer that `gen` takes.

        Raises:
            OperationalError: none came; the connection is closed, because a late one must not be taken for another's.
        """
        try:
            return super().wait(gen, interval=interval, timeout=SILENCE if timeout is None else timeout)
        except psycopg.errors._WaitTimeout:
            self.close()
            raise psycopg.OperationalError("the server does not answer") from None


def open_engine(url: str, **options: Any) -> Engine:
    """An engine whose every connection is so made."""
    engine = create_engine(url, connect_args=PATIENT, **options)
    event.listen(engine, "do_connect", _connect)
    event.listen(engine, "checkin", _note_use)
    event.listen(engine, "checkout", partial(_try_if_idle, engine))
    return engine


def _connect(dialect: Any, record: Any, arguments: Any, options: Any) -> Connection:
    return Connection.connect(*arguments, **options)


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
