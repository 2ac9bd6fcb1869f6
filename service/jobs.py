"""The life of a job: submit, claim, renew, move, cancel, sweep. The only writer of the tables `jobs` and `events`.

A worker that lost its lease is shut out by the fence: every later word of it is compared with the row and finds another number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, CursorResult, Select, Update, and_, bindparam, func, insert, null, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service import ids, locks
from service.states import FINAL_JOB, JobKind, JobState, Queue
from service.tables import Event, Job, Model, Shred
from service.turns import IN_QUEUE, STARTABLE, TURN, moments

BACKOFF = timedelta(seconds=2)
"""Wait before the first retry; doubled at each further one."""

TRIES = 5
"""Looks for a job when others take what was found in the meantime."""


class LostLease(Exception):
    """The row is no longer as this worker last saw it: somebody took the job over, or cancelled it."""


@dataclass(frozen=True)
class Claim:
    """The right to work on one job until the lease ends."""

    job_id: str
    kind: JobKind
    fence: int
    lane: str

    @property
    def stem(self) -> str:
        """How the names of its blobs begin, before the fence. Those of a part begin as those of its job do, and are swept with them."""
        return self.lane if self.kind == "block" else self.job_id


def submit(
    session: Session,
    *,
    kind: JobKind,
    dataset_id: str,
    model_id: str | None,
    method: str | None,
    now: datetime,
    queue: Queue = "cpu",
    due_at: datetime | None = None,
    task: Mapping[str, Any] | None = None,
) -> Job:
    own = {"kind": kind, "lane": dataset_id, "dataset_id": dataset_id, "model_id": model_id, "method": method, "queue": queue}
    return _add(session, now, due_at=due_at, task=dict(task) if task else None, **own)


def split(session: Session, held: Claim, tasks: Sequence[Mapping[str, Any]], *, now: datetime) -> None:
    """Submit the parts of a running job, for any worker to take; once, however often it is said.

    They inherit its due date. They end with this claim of the job, whatever ends it: the next may find other rows and another core.

    Raises:
        LostLease: the job is no longer this worker's.
    """
    hold(session, held)
    job = session.get_one(Job, held.job_id)
    known = set(session.scalars(select(Job.lane).where(_part_of(held))))
    for number, task in enumerate(tasks):
        lane = f"{_parts(held)}{number:06}"
        if lane not in known:
            own = {"lane": lane, "task": dict(task), "parent_id": job.id}
            _add(session, now, kind="block", dataset_id=job.dataset_id, queue=job.queue, due_at=job.due_at, **own)


def parts(session: Session, held: Claim) -> Counter[JobState]:
    """How many of the parts of a running job are in each state."""
    counted = select(Job.state, func.count()).where(_part_of(held)).group_by(Job.state)
    return Counter({state: count for state, count in session.execute(counted)})  # noqa: C416


def results(session: Session, held: Claim) -> list[dict[str, Any] | None]:
    """What the parts of a running job made, in their order."""
    return list(session.scalars(select(Job.result).where(_part_of(held)).order_by(Job.lane)))


def failure(session: Session, held: Claim) -> dict[str, Any] | None:
    """Why the first of a job's parts that failed did so."""
    return session.scalars(select(Job.error).where(_part_of(held), Job.state == "failed").order_by(Job.lane)).first()


QUEUED_FORGET: Select[str] = (
    select(Job.id)
    .where(Job.kind == "forget", Job.model_id == bindparam("model_id"), Job.method == bindparam("method"))
    .where(Job.state == "queued", Job.fence == 0)
    .limit(1)
)
"""The model's one queued forget job of this method, which further requests join."""

JOINING = locks.shared("joins", Model.id)
"""Keeps a model's queued job from being claimed or cancelled until the transaction that joins it has ended."""


def closing(session: Session, model_id: str) -> None:
    """Wait until whoever is joining a job of the model has ended; who comes later finds the job as this transaction leaves it."""
    locks.exclusive(session, "joins", model_id)


def claim(
    session: Session, *, worker: str, now: datetime, lease: timedelta, queue: Queue | None = None, part_of: Claim | None = None
) -> Claim | None:
    """Take the due job whose turn it is, of a data set that nobody else is working on. One UPDATE: no window between looking and taking.

    Args:
        queue: whose work to take, beside parts of jobs, which anybody can do; None takes any.
        part_of: take a part of this job and nothing else.
    """
    take = _TAKE_ANY if queue is None else _TAKE
    if part_of is not None:
        take = _taking(_part_of(part_of))
    asked = moments(now, queue) | {"holder": worker, "until": now + lease}
    for _ in range(TRIES):
        try:
            with session.begin_nested():
                taken = session.connection().execute(take, asked).first()
        except IntegrityError:  # another worker began a job of the same data set at the same moment: look again
            continue
        if taken is None:
            return None
        if taken.kind == "forget":
            closing(session, taken.model_id)
        _record(session, taken.id, now, "claimed", {"fence": taken.fence})
        return Claim(taken.id, taken.kind, taken.fence, taken.lane)
    return None


def due(session: Session, *, now: datetime) -> dict[Queue, int]:
    """How many jobs of each queue could be begun now: one a data set, and parts of running ones."""
    counted = select(Job.queue, func.count(Job.lane.distinct())).where(STARTABLE).group_by(Job.queue)
    return {queue: count for queue, count in session.execute(counted, moments(now))}  # noqa: C416  dict() does not see that a row is a pair


def _taking(*which: ColumnElement[bool]) -> Update:
    chosen = select(Job.id).where(STARTABLE, *which).order_by(*TURN).limit(1)
    # The weaker lock (FOR NO KEY UPDATE): FOR UPDATE would keep requests that are just joining from pointing at the job, while the
    # claim waits for them.
    chosen = chosen.with_for_update(skip_locked=True, key_share=True, of=Job)
    taken = update(Job).where(Job.id == chosen.scalar_subquery(), Job.state == "queued")
    begun: dict[str, Any] = {"state": "running", "fence": Job.fence + 1, "progress": 0.0, "phase": "starting"}
    begun |= {"worker": bindparam("holder"), "lease_until": bindparam("until"), "started_at": bindparam("now")}
    return taken.values(begun).returning(Job.id, Job.kind, Job.fence, Job.lane, Job.model_id)


def renew(session: Session, held: Claim, *, now: datetime, lease: timedelta, phase: str, progress: float) -> None:
    """Say that the work goes on, and how far it is.

    Raises:
        LostLease: the job is no longer this worker's; stop at once.
    """
    before = session.connection().execute(_PHASE, {"job_id": held.job_id}).scalar_one()
    _move(session, held, lease_until=now + lease, phase=phase, progress=progress)
    if phase != before:
        _record(session, held.job_id, now, "phase", {"phase": phase})


def keep_checkpoint(session: Session, held: Claim, checkpoint: Mapping[str, Any], *, now: datetime) -> None:
    """Write down how far the work came. What the checkpoint before it kept, and this one does not, is due to be destroyed.

    Raises:
        LostLease: the job is no longer this worker's.
    """
    hold(session, held)
    _drop_checkpoint(session, held.job_id, now, still=checkpoint["blobs"].values())
    _move(session, held, checkpoint=dict(checkpoint))


def leave_evidence(session: Session, job_id: str, evidence: Mapping[str, Any]) -> None:
    """Leave a job this much of its evidence."""
    _rows(session, update(Job).where(Job.id == job_id).values(evidence=dict(evidence) or null()))


def hold(session: Session, held: Claim) -> None:
    """Make sure of the job before anything else is written, and keep others off it until the transaction ends.

    Raises:
        LostLease: it is no longer this worker's.
    """
    if session.execute(_HELD, {"job_id": held.job_id, "fence": held.fence}).first() is None:
        raise LostLease(held.job_id)


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
    result: Mapping[str, Any] | None = None,
    evidence: Mapping[str, Any] | None = None,
) -> None:
    """Move a running job to a final state, only if the fence is still ours.

    Raises:
        LostLease: it is not; nothing of this transaction may be kept.
    """
    _leave(
        session,
        held,
        now,
        state=state,
        finished_at=now,
        version=version,
        statement=statement,
        error=dict(error) if error else None,
        seconds=dict(seconds) if seconds else None,
        result=dict(result) if result else None,
        evidence=dict(evidence) if evidence else None,
        **({"progress": 1.0} if state == "done" else {}),
    )
    _drop_checkpoint(session, held.job_id, now)
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
        detail = f"The worker failed {attempt} times on this job ({why}); it was parked. Ask again once the cause is mended."
        finish(session, held, state="failed", now=now, error={"code": "internal", "detail": detail})
        return True
    _leave(session, held, now, state="queued", attempt=attempt, run_after=now + BACKOFF * 2 ** (attempt - 1))
    _record(session, held.job_id, now, "retry", {"attempt": attempt, "why": why})
    return False


def give_back(session: Session, held: Claim, *, now: datetime, why: str, later: timedelta = timedelta()) -> None:
    """Queue a job again and charge nothing: the worker ends, or what it needs is away.

    Raises:
        LostLease: somebody else has it already.
    """
    _leave(session, held, now, state="queued", run_after=now + later)
    _record(session, held.job_id, now, "given_back", {"why": why})


def cancel(session: Session, job_id: str, *, now: datetime) -> bool:
    """Cancel a job that has not ended. A running worker learns of it when it next renews. False: it had ended."""
    changed = _rows(
        session,
        update(Job)
        .where(Job.id == job_id, Job.state.in_(("queued", "running")))
        .values(state="cancelled", lease_until=None, finished_at=now, phase=None),
    )
    if changed:
        _end_parts(session, job_id, now)
        _drop_checkpoint(session, job_id, now)
        _record(session, job_id, now, "cancelled", {})
    return bool(changed)


def sweep(session: Session, *, now: datetime, max_claims: int, restarted: bool = False) -> list[str]:
    """Give back jobs whose lease ended; with `restarted` every running one, because the only worker there was is gone.

    Returns the ids of jobs parked as failed: claimed `max_claims` times without an end.
    """
    parked, lost = [], set()
    # Locked, so that a worker that renews at this moment keeps its job, and two sweepers never meet at one.
    lapsed = (_RUNNING if restarted else _LOST).with_for_update(skip_locked=True, key_share=True)
    for job in session.scalars(lapsed, {"now": now}).all():
        if job.parent_id in lost:  # it ended with its job, just now
            continue
        lost.add(job.id)
        held = Claim(job.id, job.kind, job.fence, job.lane)
        if job.fence >= max_claims:
            detail = f"The job was begun {job.fence} times and never ended. Ask again once the cause is mended."
            finish(session, held, state="failed", now=now, error={"code": "parked", "detail": detail})
            parked.append(job.id)
        else:
            _leave(session, held, now, state="queued", run_after=now)
            _record(session, job.id, now, "lease_lost", {"fence": job.fence})
    return parked


def any_lost(session: Session, *, now: datetime, restarted: bool) -> bool:
    """Whether `sweep` would find anything: asked first, because a look needs no write lock."""
    return session.connection().execute(_ANY_RUNNING if restarted else _ANY_LOST, {"now": now}).first() is not None


def events_after(session: Session, job_id: str, last: int) -> list[Event]:
    return list(session.scalars(select(Event).where(Event.job_id == job_id, Event.id > last).order_by(Event.id)))


def is_final(state: str) -> bool:
    return state in FINAL_JOB


def _add(session: Session, now: datetime, **values: Any) -> Job:
    job = Job(id=ids.new("job"), state="queued", fence=0, attempt=0, progress=0.0, run_after=now, created_at=now, **values)
    session.add(job)
    session.flush()
    _record(session, job.id, now, "queued", {})
    return job


def _parts(held: Claim) -> str:
    return f"{held.job_id}-{held.fence}-b"


def _part_of(held: Claim) -> ColumnElement[bool]:
    """Parts that this very claim of a job was split into."""
    return and_(Job.parent_id == held.job_id, Job.lane.startswith(_parts(held), autoescape=True))


def _leave(session: Session, held: Claim, now: datetime, **values: Any) -> None:
    """Move a job out of `running`, by whatever way."""
    _move(session, held, lease_until=None, phase=None, **values)
    if held.kind != "block":
        _end_parts(session, held.job_id, now)


def _end_parts(session: Session, job_id: str, now: datetime) -> None:
    """Cancel what is open of a job's parts, and let go of what they made: what was published of it has another owner by now."""
    session.flush()
    for part in session.connection().execute(_END_PARTS, {"whole": job_id, "now": now}).scalars().all():
        _record(session, part, now, "cancelled", {})
    session.connection().execute(_DROP_RESULTS, {"whole": job_id})


def _drop_checkpoint(session: Session, job_id: str, now: datetime, still: Iterable[str] = ()) -> None:
    """Let go of what a job kept to go on from, but for `still`: it may hold what was computed from user samples."""
    kept = session.connection().execute(_CHECKPOINT, {"job_id": job_id}).scalar_one()
    if kept is None:
        return
    for blob in set(kept["blobs"].values()).difference(still):
        session.add(Shred(blob=blob, job_id=job_id, what="checkpoint of a computation", due_at=now))
    _rows(session, update(Job).where(Job.id == job_id).values(checkpoint=null()))


def _move(session: Session, held: Claim, **values: Any) -> None:
    session.flush()
    asked = {"held_job": held.job_id, "held_fence": held.fence} | {f"new_{name}": value for name, value in values.items()}
    if session.connection().execute(_moving(*values), asked).rowcount != 1:
        raise LostLease(held.job_id)


@cache
def _moving(*names: str) -> Update:
    ours = update(Job).where(Job.id == bindparam("held_job"), Job.fence == bindparam("held_fence"), Job.state == "running")
    return ours.values({name: bindparam(f"new_{name}", type_=Job.__table__.c[name].type) for name in names})


def _rows(session: Session, statement: Any) -> int:
    result = session.execute(statement.execution_options(synchronize_session=False))
    assert isinstance(result, CursorResult)
    return result.rowcount


def _record(session: Session, job_id: str, now: datetime, kind: str, data: dict[str, Any]) -> None:
    session.connection().execute(_TELL, {"job_id": job_id, "at": now, "kind": kind, "data": data})


# Statements made once: to make one takes longer than to carry it out.
_TAKE_ANY, _TAKE = _taking(), _taking(IN_QUEUE)
_RUNNING = select(Job).where(Job.state == "running").order_by(Job.id)
_LOST = _RUNNING.where(Job.lease_until < bindparam("now"))
_ANY_RUNNING, _ANY_LOST = (found.with_only_columns(Job.id).limit(1) for found in (_RUNNING, _LOST))
_PHASE, _CHECKPOINT = (select(said).where(Job.id == bindparam("job_id")) for said in (Job.phase, Job.checkpoint))
_OURS = select(Job.id).where(Job.id == bindparam("job_id"), Job.fence == bindparam("fence"), Job.state == "running")
_HELD = _OURS.with_for_update(key_share=True)
_PARTS = update(Job).where(Job.parent_id == bindparam("whole"))
_END_PARTS = (
    _PARTS.where(Job.state.in_(("queued", "running")))
    .values(state="cancelled", lease_until=None, finished_at=bindparam("now"), phase=None)
    .returning(Job.id)
)
_TELL = insert(Event)
_DROP_RESULTS = _PARTS.where(Job.result.is_not(None)).values(result=null())
