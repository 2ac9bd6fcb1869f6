"""What must not be done by two at once, on a database with many writers: named locks that end with the transaction.

SQLite needs none of them: its one write lock is already held by every writer. On PostgreSQL they are advisory locks, whose queue is
fair: whoever waits for the exclusive form is not overtaken by newcomers who ask for the shared one.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, func, literal, text
from sqlalchemy.orm import Session


def exclusive(session: Session, *name: str) -> None:
    """Wait until nobody else holds this name, and hold it until the transaction ends."""
    if session.info.get("writes") and session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": "\n".join(name)})


def shared(what: str, name: Any) -> ColumnElement[Any]:
    """A column that holds a name beside others who share it, and keeps out whoever wants it alone, as soon as its row is found.

    For PostgreSQL alone. In the query that finds the row, because a statement of its own would be a round trip of its own.

    Args:
        what, name: the lock's name; the second part is a column.
    """
    return func.pg_advisory_xact_lock_shared(func.hashtextextended(literal(f"{what}\n") + name, 0))
