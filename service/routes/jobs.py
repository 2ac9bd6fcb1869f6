"""Jobs: poll, wait, follow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy import Select, bindparam, func, select
from sqlalchemy.orm import Session

from service import evidence, jobs, requests
from service.db import moment
from service.deps import MayAdmin, MayRead, OpenHome, job_with
from service.home import Home
from service.pages import LIMIT, link_next, page
from service.problem import not_found
from service.ready import Ready, shared
from service.schemas import JobOut, Page
from service.states import JobState
from service.tables import Certificate, Dataset, Job, Model, Version

router = APIRouter(tags=["jobs"])

POLL, LATE, LONGEST = 0.05, 0.05, 0.5
"""Seconds between two looks at a job that somebody waits for; longer the longer it takes: by `LATE` of the time waited, to `LONGEST`."""


@router.get("/jobs", response_model=Page)
def list_jobs(
    home: OpenHome,
    caller: MayRead,
    response: Response,
    state: JobState | None = None,
    parent: Annotated[str | None, Query(max_length=64)] = None,
    after: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = LIMIT,
) -> Any:
    """Jobs, newest first; with `parent`, the parts that a job was split into."""
    with home.db.read() as session:
        query = select(Job).where(Job.parent_id == parent)  # None: IS NULL
        query = query.where(Job.state == state) if state else query
        rows, cursor = page(session, query, Job.id, after, limit)
        link_next(response, "/jobs", cursor)
        return {"items": [shown(session, job.id) for job in rows], "next": cursor}


@router.get("/jobs/{job_id}", response_model=JobOut)
async def get_job(
    job_id: str, home: OpenHome, caller: MayRead, wait: Annotated[float, Query(ge=0, le=60, allow_inf_nan=False)] = 0
) -> Any:
    """A job now; with `wait`, as soon as it ends or after that many seconds."""
    begun = time.monotonic()
    while True:
        job = await run_in_threadpool(_look, home, job_id)
        waited = time.monotonic() - begun
        if jobs.is_final(job.state) or waited >= wait:
            break
        await asyncio.sleep(min(POLL + LATE * waited, LONGEST, wait - waited))
    return Response(
        job.model_dump_json(), media_type="application/json", headers=None if jobs.is_final(job.state) else {"Retry-After": "1"}
    )


def _known(job_id: str, home: OpenHome) -> str:
    _look(home, job_id)
    return job_id


@router.get("/jobs/{job_id}/events", response_class=EventSourceResponse)
async def follow(
    home: OpenHome,
    caller: MayRead,
    job_id: Annotated[str, Depends(_known)],
    last: Annotated[str | None, Header(alias="Last-Event-ID", max_length=20)] = None,
) -> AsyncIterator[ServerSentEvent]:
    """What happens to a job, as it happens: numbered events, and `progress` between them. Resumes after `Last-Event-ID`."""
    seen, told = (int(last) if last and last.isascii() and last.isdigit() else 0), None
    while True:
        events, job = await run_in_threadpool(_since, home, job_id, seen)
        for event in events:
            seen = event.id
            yield ServerSentEvent(id=str(event.id), event=event.kind, data={"at": event.at.isoformat()} | event.data)
        if jobs.is_final(job.state):
            yield ServerSentEvent(event="end", data=job.model_dump(mode="json"))
            return
        if told != (job.phase, job.progress):
            told = (job.phase, job.progress)
            yield ServerSentEvent(event="progress", data={"phase": job.phase, "progress": job.progress, "eta_seconds": job.eta_seconds})
        await asyncio.sleep(POLL * 2)


@router.get("/jobs/{job_id}/certificate")
def certificate_of(job_id: str, home: OpenHome, caller: MayRead) -> Response:
    """The signed statement that a job ended with: of its version, of its refusal, or of its audit."""
    with home.db.read() as session:
        job = job_with(session, job_id)
        found = session.get(Certificate, job.statement) if job.statement else None
        if found is None:
            raise not_found("certificate")
        name = "certificate.sigstore.json" if found.kind != "audit" else "audit.sigstore.json"
        return Response(found.files[name], media_type="application/vnd.dev.sigstore.bundle.v0.3+json")


@router.get("/jobs/{job_id}/solver")
def solver(job_id: str, home: OpenHome, caller: MayAdmin) -> dict[str, Any]:
    """How a linearised model was solved in this job, for auditors: as of its version, and also where the job was refused."""
    with home.db.read() as session:
        job = job_with(session, job_id)
        version = session.scalars(select(Version).where(Version.job_id == job.id)).first()
        found = (version.facts if version else job.result or {}).get("solver")
    if found is None:
        raise not_found("solver_record")
    return dict(found)


def _facts(in_one_text: Any) -> Select[Any]:
    return (
        select(
            *(Job.id, Job.kind, Job.parent_id.label("parent"), Job.state, Job.method, Job.phase, Job.progress, Job.attempt, Job.version),
            *(Job.error, Job.evidence, Job.seconds, Job.created_at, Job.started_at, Job.finished_at, Model.name.label("model")),
            *(Dataset.name.label("dataset"), requests.names_in_job(in_one_text).label("requests")),
        )
        .join(Dataset, Dataset.id == Job.dataset_id)
        .outerjoin(Model, Model.id == Job.model_id)
        .where(Job.id == bindparam("job_id"))
    )


_ALONE, _SHARED = _facts(func.group_concat), _facts(func.string_agg)
_NAMES = (*_ALONE.selected_columns.keys(), "now")
_JOB = Ready(_ALONE, shared=_SHARED.add_columns(func.clock_timestamp()))
"""A job with all that is shown of it: one question, so of one moment without a transaction."""


def shown(session: Session, job_id: str) -> JobOut:
    """A job as its caller sees it.

    Raises:
        Problem: 404.
    """
    row = _JOB.first(session, job_id=job_id)
    if row is None:
        raise not_found("job")
    job = dict(zip(_NAMES, row if shared(session) else (*row, moment(session)), strict=True))
    return JobOut.model_validate(
        job
        | {
            "progress": round(job["progress"], 4),
            "eta_seconds": _eta(job),
            "requests": sorted((job["requests"] or "").split()),
            "evidence": evidence.listed(job_id, job["evidence"]),
        }
    )


def _eta(job: dict[str, Any]) -> float | None:
    """Seconds left if the rest goes as fast as what is done; None before a twentieth is."""
    done: float = job["progress"]
    if job["state"] != "running" or job["started_at"] is None or done < 0.05:
        return None
    spent: float = (job["now"] - job["started_at"]).total_seconds()
    return round(spent * (1 - done) / done, 1)


def _look(home: Home, job_id: str) -> JobOut:
    with home.db.glance() as session:
        return shown(session, job_id)


def _since(home: Home, job_id: str, seen: int) -> tuple[list[Any], JobOut]:
    with home.db.read() as session:
        job = shown(session, job_id)  # before its events: an end seen here has its event already written
        return jobs.events_after(session, job_id, seen), job
