"""Whose turn it is: which jobs could be begun now, and which of them is the next."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, select
from sqlalchemy.orm import aliased

from service.tables import Job

URGENT = timedelta(days=7)
"""What must be answered within a week goes before everything else, the earliest due first."""

# Made once: an alias copies every column, which took longer than the claim itself.
_BUSY, _SERVED = aliased(Job), aliased(Job)


def startable(now: datetime) -> ColumnElement[bool]:
    free = ~select(_BUSY.id).where(_BUSY.lane == Job.lane, _BUSY.state == "running").exists()
    return and_(Job.state == "queued", Job.run_after <= now, free)


def turn(now: datetime) -> tuple[Any, ...]:
    """The order of jobs: the urgent by their due date; the rest by how long they have waited.

    A job has waited since it came or since its model last had a turn, whichever is later: a model that asks without end cannot keep
    the others out, and nothing waits for ever. Unless urgent, parts are for idle hands: the worker that has their job in hand does
    them anyway, and a wide job must not keep all workers from the others.
    """
    last = select(func.max(_SERVED.started_at)).where(_SERVED.model_id == Job.model_id).scalar_subquery()
    urgent = case((Job.due_at < now + URGENT, Job.due_at), else_=None)
    since = case((last > Job.created_at, last), else_=Job.created_at)
    return urgent.is_(None), urgent, Job.parent_id.is_not(None), since, Job.created_at, Job.lane, Job.id
