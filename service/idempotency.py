"""Same caller, same Idempotency-Key, same answer: kept in the transaction that did the work."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete
from sqlalchemy.orm import Session

from service import locks
from service.problem import Problem, at
from service.tables import Answer


@dataclass(frozen=True)
class Stored:
    """An answer given before."""

    status: int
    headers: dict[str, str]
    body: dict[str, Any]


def recall(session: Session, caller: str, key: str | None, body_tag: str | None) -> Stored | None:
    """The answer given under this key, if any.

    Args:
        body_tag: keyed hash of the body now sent; None while a stream has not been read yet.

    Raises:
        Problem: 422 when the key came with another body, 409 while the first request still runs.
    """
    if key is None:
        return None
    locks.exclusive(session, "answer", caller, key)
    known = session.get(Answer, (caller, key))
    if known is None:
        return None
    if known.status is None:
        raise Problem(
            409,
            "idempotency_running",
            "The first request with this Idempotency-Key is still running; try again shortly.",
            headers={"Retry-After": "1"},
        )
    if body_tag is not None and known.body_tag != body_tag:
        raise Problem(
            422,
            "idempotency_mismatch",
            "This Idempotency-Key was used with another body. Use a new key for a new request.",
            errors=[at("header:Idempotency-Key", "already used with another body")],
        )
    return Stored(known.status, dict(known.headers or {}), dict(known.body or {}))


def reserve(session: Session, caller: str, key: str | None, now: datetime) -> None:
    """Mark a key as running, before a long upload."""
    if key is not None:
        session.add(Answer(caller=caller, key=key, created_at=now))
        session.flush()


def keep(session: Session, caller: str, key: str | None, body_tag: str, answer: Stored, now: datetime, *, reserved: bool = False) -> None:
    """Keep an answer under a key for which `recall` found none.

    Args:
        reserved: the key was marked as running.
    """
    if key is not None:
        row = Answer(
            caller=caller, key=key, body_tag=body_tag, status=answer.status, headers=answer.headers, body=answer.body, created_at=now
        )
        if reserved:
            session.merge(row)
        else:
            session.add(row)


def release(session: Session, caller: str, key: str | None) -> None:
    """Free a reserved key whose request was refused or broken off."""
    if key is not None:
        session.execute(delete(Answer).where(Answer.caller == caller, Answer.key == key, Answer.status.is_(None)))


def release_all(session: Session, *, before: datetime | None = None) -> None:
    """On start: no request of a process that is gone is still running. With `before`: none that began so long ago is."""
    running = Answer.status.is_(None)
    session.execute(delete(Answer).where(running if before is None else running & (Answer.created_at < before)))
