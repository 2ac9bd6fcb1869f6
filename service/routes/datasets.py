"""Data sets: one Parquet file each, sealed as it arrives, checked at once as far as its footer and keys tell."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import select
from sqlalchemy.orm import Session

from service import idempotency, ids, jobs, locks, uploads
from service.auth import Caller
from service.blobs import Sealed
from service.db import OUTAGE, moment
from service.deps import IdempotencyKey, MayAdmin, MayRead, OpenHome, dataset_named, tag_of
from service.home import Home
from service.idempotency import Stored
from service.pages import LIMIT, link_next, page
from service.parquet import inspect
from service.problem import Problem, at
from service.schemas import DatasetOut, Name, Page
from service.tables import Dataset, Job

router = APIRouter(tags=["datasets"], max_body_size=1 << 40)  # the real limit is a setting, counted while streaming


@router.post(
    "/datasets",
    status_code=202,
    response_model=DatasetOut,
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/vnd.apache.parquet": {"schema": {"type": "string", "format": "binary"}}}}
    },
)
async def upload(
    name: Annotated[Name, Query()], request: Request, home: OpenHome, caller: MayAdmin, response: Response, key: IdempotencyKey = None
) -> Any:
    """Upload a Parquet file (the body). Schema and ids are checked before the answer; rows by the job that it names."""
    known = await run_in_threadpool(_begin, home, caller, key, name)
    blob = ids.new("up")
    try:
        sealed = await uploads.receive(request, home, blob, home.settings.max_upload_bytes)
        stored = await run_in_threadpool(_finish, home, caller, key, name, sealed, known)
    except OUTAGE:  # whether the record took it is unknown: the blob may be needed, and is swept later if it is not
        raise
    except BaseException:
        await run_in_threadpool(_undo, home, caller, key, blob)
        raise
    home.wake.set()
    response.headers.update(stored.headers)
    return stored.body


def _begin(home: Home, caller: Caller, key: str | None, name: str) -> bool:
    """Reserve the key and look at the name before a long upload. True: the key already has its answer."""
    with home.db.write() as session:
        if idempotency.recall(session, caller.id, key, None) is not None:
            return True
        _refuse_taken(session, name)
        idempotency.reserve(session, caller.id, key, moment(session))
    return False


def _finish(home: Home, caller: Caller, key: str | None, name: str, sealed: Sealed, known: bool) -> Stored:
    tag = tag_of(home, "POST /datasets", f"{name}\n{sealed.sha256}")
    if known:
        with home.db.read() as session:
            stored = idempotency.recall(session, caller.id, key, tag)
        home.vault.shred(sealed.blob_id)
        assert stored is not None
        return stored
    with home.vault.open(sealed.blob_id) as source:
        inspect(source, max_rows=home.settings.max_rows, max_expansion=home.settings.max_expansion)
    with home.db.write() as session:
        _refuse_taken(session, name)
        dataset = Dataset(
            id=ids.new("ds"),
            name=name,
            state="validating",
            source_blob=sealed.blob_id,
            source_sha256=sealed.sha256,
            created_at=moment(session),
        )
        session.add(dataset)
        session.flush()
        job = jobs.submit(session, kind="validate", dataset_id=dataset.id, model_id=None, method=None, now=moment(session))
        stored = Stored(202, {"Location": f"/jobs/{job.id}", "Retry-After": "1"}, shown(session, dataset).model_dump(mode="json"))
        idempotency.keep(session, caller.id, key, tag, stored, moment(session), reserved=True)
    return stored


def _undo(home: Home, caller: Caller, key: str | None, blob: str) -> None:
    home.vault.shred(blob)
    with home.db.write() as session:
        idempotency.release(session, caller.id, key)


def _refuse_taken(session: Session, name: str) -> None:
    locks.exclusive(session, "dataset", name)
    if session.scalars(select(Dataset.id).where(Dataset.name == name)).first():
        raise Problem(409, "name_taken", "A data set has this name already; choose another.", errors=[at("query:name", "taken")])


@router.get("/datasets", response_model=Page)
def list_datasets(
    home: OpenHome,
    caller: MayRead,
    response: Response,
    after: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = LIMIT,
) -> Any:
    """Data sets, newest first."""
    with home.db.read() as session:
        rows, cursor = page(session, select(Dataset), Dataset.id, after, limit)
        link_next(response, "/datasets", cursor)
        return {"items": [shown(session, d) for d in rows], "next": cursor}


@router.get("/datasets/{name}", response_model=DatasetOut)
def get_dataset(name: str, home: OpenHome, caller: MayRead) -> Any:
    """A data set by name or id: its state, its counts, or why it failed."""
    with home.db.read() as session:
        return shown(session, dataset_named(session, name))


def shown(session: Session, dataset: Dataset) -> DatasetOut:
    job = session.scalars(select(Job.id).where(Job.dataset_id == dataset.id, Job.kind == "validate")).first()
    return DatasetOut(
        id=dataset.id,
        name=dataset.name,
        state=dataset.state,
        sha256=dataset.source_sha256,
        summary=dataset.summary,
        error=dataset.error,
        created_at=dataset.created_at,
        job=job,
    )
