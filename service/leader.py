"""Who of several processes does what one must do: whoever holds an advisory lock of PostgreSQL, for as long as its connection lives."""

from __future__ import annotations

from sqlalchemy import Connection, pool, text
from sqlalchemy.exc import DBAPIError

from service.connections import open_engine


class Leader:
    """One candidate. The lock ends with the connection: a process that dies, or is cut off, is succeeded within seconds.

    Two may believe for a moment that they lead (the lock is gone, the old leader has not noticed). Nothing that a leader does is harmed
    by that: each change checks the row that it changes.
    """

    def __init__(self, database_url: str, name: str) -> None:
        self._engine = open_engine(database_url, poolclass=pool.NullPool, isolation_level="AUTOCOMMIT")
        self._name = f"leader\n{name}"
        self._connection: Connection | None = None
        self._leading = False

    def leads(self) -> bool:
        """Whether this process leads now; takes the lead if nobody has it. False also while the database is away."""
        try:
            if self._connection is None:
                self._connection = self._engine.connect()
            if self._leading:
                self._connection.execute(text("SELECT 1"))
            else:
                found = self._connection.execute(text("SELECT pg_try_advisory_lock(hashtextextended(:name, 0))"), {"name": self._name})
                self._leading = bool(found.scalar())
        except DBAPIError:
            self.resign()
        return self._leading

    def resign(self) -> None:
        """Let another lead. Call from the thread that leads."""
        connection, self._connection, self._leading = self._connection, None, False
        if connection is not None:
            connection.invalidate()  # closed for good, whatever state it is in
            connection.close()
