"""Whose turn it is: which jobs could be begun now, and which of them is the next. What they are asked with, `moments` gives."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, bindparam, case, func, or_, select
from sqlalchemy.orm import Session, aliased

from service.db import Instant
from service.states import Queue
from service.tables import Job

URGENT = timedelta(days=7)
"""What must be answered within a week goes before everything else, the earliest due first."""

# Made once, as all of this is: an alias copies every column, which took longer than the claim itself.
_BUSY, _SERVED = aliased(Job), aliased(Job)
_NOW, _SOON = bindparam("now", type_=Instant()), bindparam("soon", type_=Instant())
_FREE = ~select(_BUSY.id).where(_BUSY.lane == Job.lane, _BUSY.state == "running").exists()
_LAST = select(func.max(_SERVED.started_at)).where(_SERVED.model_id == Job.model_id).scalar_subquery()
_URGENT = case((Job.due_at < _SOON, Job.due_at), else_=None)
_SINCE = case((Job.created_at < _LAST, _LAST), else_=Job.created_at)

STARTABLE = and_(Job.state == "queued", Job.run_after <= _NOW, _FREE)

TURN = (_URGENT.is_(None), _URGENT, Job.parent_id.is_not(None), _SINCE, Job.created_at, Job.lane, Job.id)
"""The order of jobs: the urgent by their due date; the rest by how long they have waited.

A job has waited since it came or since its model last had a turn, whichever is later: a model that asks without end cannot keep
the others out, and nothing waits for ever. Unless urgent, parts are for idle hands: the worker that has their job in hand does
them anyway, and a wide job must not keep all workers from the others.
"""


IN_QUEUE = or_(Job.queue == bindparam("of_queue"), Job.kind == "block")
"""Of a worker's own queue, or a part of a job, which anybody can do."""

_LOOK_ANY = select(Job.id).where(STARTABLE).limit(1)
_LOOK = _LOOK_ANY.where(IN_QUEUE)


def moments(now: datetime, queue: Queue | None = None) -> dict[str, Any]:
    """What a statement of these conditions and this order must be told."""
    return {"now": now, "soon": now + URGENT, "of_queue": queue}


def any_due(session: Session, *, now: datetime, queue: Queue | None = None) -> bool:
    """Whether `jobs.claim` would find anything: asked first, because most looks find nothing, and a look needs no write lock."""
    look = _LOOK_ANY if queue is None else _LOOK
    return session.connection().execute(look, moments(now, queue)).first() is not None
