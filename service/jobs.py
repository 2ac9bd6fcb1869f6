"""The life of a job: submit, claim, renew, move, cancel, sweep. The only writer of the tables `jobs` and `events`.

A worker that lost its lease is shut out by the fence: every later word of it is compared with the row and finds another number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import CursorResult, Select, select, update
from sqlalchemy.orm import Session, aliased

from service import ids
from service.states import FINAL_JOB, JobKind, JobState
from service.tables import Event, Job

BACKOFF = timedelta(seconds=2)
"""Wait before the first retry; doubled at each further one."""


class LostLease(Exception):
    """The row is no longer as this worker last saw it: somebody took the job over, or cancelled it."""


@dataclass(frozen=True)
class Claim:
    """The right to work on one job until the lease ends."""

    job_id: str
    kind: JobKind
    fence: int


def submit(session: Session, *, kind: JobKind, dataset_id: str, model_id: str | None, method: str | None, now: datetime) -> Job:
    job = Job(
        id=ids.new("job"),
        kind=kind,
        lane=dataset_id,
        dataset_id=dataset_id,
        model_id=model_id,
        method=method,
        state="queued",
        fence=0,
        attempt=0,
        progress=0.0,
        run_after=now,
        created_at=now,
    )
    session.add(job)
    session.flush()
    _record(session, job.id, now, "queued", {})
    return job


def queued_forget(session: Session, model_id: str, method: str) -> Job | None:
    """The model's one queued forget job of this method, which further requests join."""
    return session.scalars(
        select(Job).where(Job.kind == "forget", Job.model_id == model_id, Job.method == method, Job.state == "queued", Job.fence == 0)
    ).first()


def claim(session: Session, *, worker: str, now: datetime, lease: timedelta) -> Claim | None:
    """Take the oldest due job whose dataset nobody else is working on. One UPDATE: no window between looking and taking."""
    busy = aliased(Job)
    due = (
        select(Job.id)
        .where(Job.state == "queued", Job.run_after <= now)
        .where(~select(busy.id).where(busy.lane == Job.lane, busy.state == "running").exists())
        .order_by(Job.created_at, Job.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    taken = session.execute(
        update(Job)
        .where(Job.id == due, Job.state == "queued")
        .values(
            state="running", fence=Job.fence + 1, worker=worker, lease_until=now + lease, started_at=now, progress=0.0, phase="starting"
        )
        .returning(Job.id, Job.kind, Job.fence)
        .execution_options(synchronize_session=False)
    ).first()
    if taken is None:
        return None
    _record(session, taken.id, now, "claimed", {"fence": taken.fence})
    return Claim(taken.id, taken.kind, taken.fence)


def renew(session: Session, held: Claim, *, now: datetime, lease: timedelta, phase: str, progress: float) -> None:
    """Say that the work goes on, and how far it is.

    Raises:
        LostLease: the job is no longer this worker's; stop at once.
    """
    before = session.execute(select(Job.phase).where(Job.id == held.job_id)).scalar_one()
    _move(session, held, lease_until=now + lease, phase=phase, progress=progress)
    if phase != before:
        _record(session, held.job_id, now, "phase", {"phase": phase})


def finish(
    session: Session,
    held: Claim,
    *,
    state: JobState,
    now: datetime,
    version: int | None = None,
    statement: str | None = None,
    error: Mapping[str, Any] | None = None,
    seconds: Mapping[str, float] | None = None,
) -> None:
    """Move a running job to a final state, only if the fence is still ours.

    Raises:
        LostLease: it is not; nothing of this transaction may be kept.
    """
    _move(
        session,
        held,
        state=state,
        lease_until=None,
        finished_at=now,
        version=version,
        statement=statement,
        phase=None,
        error=dict(error) if error else None,
        seconds=dict(seconds) if seconds else None,
        progress=1.0 if state == "done" else Job.progress,
    )
    _record(
        session, held.job_id, now, state, {k: v for k, v in (("version", version), ("code", (error or {}).get("code"))) if v is not None}
    )


def charge(session: Session, held: Claim, *, now: datetime, max_attempts: int, why: str) -> bool:
    """Charge a failure to the job and queue it again with back-off; after `max_attempts` park it as failed. True: parked.

    Args:
        why: the kind of failure, without any data: it is shown.
    """
    attempt = session.execute(select(Job.attempt).where(Job.id == held.job_id)).scalar_one() + 1
    if attempt >= max_attempts:
        _move(session, held, attempt=attempt)
        finish(
            session,
            held,
            state="failed",
            now=now,
            error={
                "code": "internal",
                "detail": f"The worker failed {attempt} times on this job ({why}); it was parked. Ask again once the cause is mended.",
            },
        )
        return True
    _move(session, held, state="queued", lease_until=None, attempt=attempt, run_after=now + BACKOFF * 2 ** (attempt - 1), phase=None)
    _record(session, held.job_id, now, "retry", {"attempt": attempt, "why": why})
    return False


def cancel(session: Session, job_id: str, *, now: datetime) -> bool:
    """Cancel a job that has not ended. A running worker learns of it when it next renews. False: it had ended."""
    changed = _rows(
        session,
        update(Job)
        .where(Job.id == job_id, Job.state.in_(("queued", "running")))
        .values(state="cancelled", lease_until=None, finished_at=now, phase=None),
    )
    if changed:
        _record(session, job_id, now, "cancelled", {})
    return bool(changed)


def sweep(session: Session, *, now: datetime, max_claims: int, restarted: bool = False) -> list[str]:
    """Give back jobs whose lease ended; with `restarted` every running one, because the only worker there was is gone.

    Returns the ids of jobs parked as failed: claimed `max_claims` times without an end.
    """
    parked = []
    for job in session.scalars(_lost(now, restarted)).all():
        held = Claim(job.id, job.kind, job.fence)
        if job.fence >= max_claims:
            finish(
                session,
                held,
                state="failed",
                now=now,
                error={
                    "code": "parked",
                    "detail": f"The job was begun {job.fence} times and never ended. Ask again once the cause is mended.",
                },
            )
            parked.append(job.id)
        else:
            _move(session, held, state="queued", lease_until=None, phase=None, run_after=now)
            _record(session, job.id, now, "lease_lost", {"fence": job.fence})
    return parked


def any_lost(session: Session, *, now: datetime, restarted: bool) -> bool:
    """Whether `sweep` would find anything: asked first, because a look needs no write lock."""
    return session.scalars(_lost(now, restarted).limit(1)).first() is not None


def _lost(now: datetime, restarted: bool) -> Select[Job]:
    running = select(Job).where(Job.state == "running")
    return running if restarted else running.where(Job.lease_until < now)


def events_after(session: Session, job_id: str, last: int) -> list[Event]:
    return list(session.scalars(select(Event).where(Event.job_id == job_id, Event.id > last).order_by(Event.id)))


def is_final(state: str) -> bool:
    return state in FINAL_JOB


def _move(session: Session, held: Claim, **values: Any) -> None:
    changed = _rows(session, update(Job).where(Job.id == held.job_id, Job.fence == held.fence, Job.state == "running").values(**values))
    if changed != 1:
        raise LostLease(held.job_id)


def _rows(session: Session, statement: Any) -> int:
    result = session.execute(statement.execution_options(synchronize_session=False))
    assert isinstance(result, CursorResult)
    return result.rowcount


def _record(session: Session, job_id: str, now: datetime, kind: str, data: dict[str, Any]) -> None:
    session.add(Event(job_id=job_id, at=now, kind=kind, data=data))
