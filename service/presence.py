"""Presence: which workers live, by their own word. For people and metrics alone; no job is given or taken by it."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import bindparam, delete, func, select, update
from sqlalchemy.orm import Session

from service.tables import Worker

EVERY = timedelta(seconds=5)
"""How often a worker says that it lives."""

RECENT = timedelta(seconds=20)
"""After this long without a word a worker counts as gone."""

FORGOTTEN = timedelta(days=1)
"""After this long its row goes."""


def seen(session: Session, *, worker: str, queue: str, now: datetime) -> None:
    """Say that a worker lives. Only that worker writes its row."""
    if not session.connection().execute(_SEEN, {"who": worker, "where": queue, "when": now}).rowcount:
        session.add(Worker(name=worker, queue=queue, started_at=now, seen_at=now))
        session.execute(delete(Worker).where(Worker.seen_at < now - FORGOTTEN).execution_options(synchronize_session=False))


_SEEN = update(Worker).where(Worker.name == bindparam("who")).values(queue=bindparam("where"), seen_at=bindparam("when"))


def gone(session: Session, *, worker: str) -> None:
    """Say that a worker stops, in order."""
    session.execute(delete(Worker).where(Worker.name == worker).execution_options(synchronize_session=False))


def present(session: Session, *, now: datetime) -> dict[str, int]:
    """Queue -> workers seen within `RECENT`."""
    rows = session.execute(select(Worker.queue, func.count()).where(Worker.seen_at >= now - RECENT).group_by(Worker.queue))
    return {queue: count for queue, count in rows}  # noqa: C416  dict() does not see that a row is a pair
