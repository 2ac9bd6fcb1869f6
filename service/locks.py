"""What must not be done by two at once, on a database with many writers: named locks that end with the transaction.

SQLite needs none of them: its one write lock is already held by every writer. On PostgreSQL they are advisory locks, whose queue is
fair: whoever waits for the exclusive form is not overtaken by newcomers who ask for the shared one.
"""

from __future__ import annotations

import hashlib

from sqlalchemy import text
from sqlalchemy.orm import Session


def exclusive(session: Session, *name: str) -> None:
    """Wait until nobody else holds this name, and hold it until the transaction ends."""
    _take(session, "pg_advisory_xact_lock", name)


def shared(session: Session, *name: str) -> None:
    """Hold this name beside others who share it; keep out whoever wants it alone."""
    _take(session, "pg_advisory_xact_lock_shared", name)


def number(*name: str) -> int:
    """The 64-bit number by which PostgreSQL knows a name."""
    return int.from_bytes(hashlib.sha256("\n".join(name).encode()).digest()[:8], "big", signed=True)


def _take(session: Session, function: str, name: tuple[str, ...]) -> None:
    if session.info.get("writes") and session.get_bind().dialect.name == "postgresql":
        session.execute(text(f"SELECT {function}(:number)"), {"number": number(*name)})  # two constants, never input
