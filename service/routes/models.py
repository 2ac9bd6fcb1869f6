"""Models: created once with a fixed form, fitted by a job, then a history of versions."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import select
from sqlalchemy.orm import Session

from service import erasure, idempotency, ids, jobs, locks, outcomes, uploads
from service.blobs import Sealed
from service.db import OUTAGE, moment
from service.deps import IdempotencyKey, MayAdmin, MayRead, OpenHome, dataset_named, model_named, tag_of
from service.home import Home
from service.idempotency import Stored
from service.pages import LIMIT, link_next, page
from service.problem import Problem, at
from service.safetensors import check_header
from service.schemas import ModelBody, ModelOut, Page, ReleaseIn
from service.tables import Dataset, Job, Model

router = APIRouter(tags=["models"])
uploads_router = APIRouter(tags=["models"], max_body_size=1 << 40)

MAX_CORE = 2 << 30
"""Bytes of an uploaded core."""


@router.post("/models", status_code=202, response_model=ModelOut)
def create(body: ModelBody, home: OpenHome, caller: MayAdmin, response: Response, key: IdempotencyKey = None) -> Any:
    """Create a model on a data set and fit its first version; with `core: upload` once the core's weights have come."""
    tag = tag_of(home, "POST /models", body)
    with home.db.write() as session:
        stored = idempotency.recall(session, caller.id, key, tag)
        if stored is None:
            stored = _create(session, home, body)
            idempotency.keep(session, caller.id, key, tag, stored, moment(session))
    home.wake.set()
    response.headers.update(stored.headers)
    return stored.body


def _create(session: Session, home: Home, body: ModelBody) -> Stored:
    dataset = dataset_named(session, body.dataset)
    if dataset.state != "ready":
        raise Problem(
            409,
            "dataset_not_ready",
            f"The data set is {dataset.state}.",
            errors=[at("/dataset", "not ready")],
            headers={"Retry-After": "1"} if dataset.state == "validating" else None,
        )
    locks.exclusive(session, "model", body.name)
    if session.scalars(select(Model.id).where(Model.name == body.name)).first():
        raise Problem(409, "name_taken", "A model has this name already; choose another.", errors=[at("/name", "taken")])
    _check_against_data(body, dataset)
    spec = body.model_dump(mode="json", exclude={"name", "dataset"})
    if body.linearize:
        spec["release"] = (body.release or ReleaseIn()).model_dump(mode="json")
    model = Model(
        id=ids.new("mdl"),
        name=body.name,
        dataset_id=dataset.id,
        spec=spec,
        created_at=moment(session),
        state="awaiting_core" if body.core == "upload" else "fitting",
    )
    session.add(model)
    session.flush()
    headers = {"Location": f"/models/{model.name}"}
    if body.core != "upload":
        job = _fit(session, home, model)
        headers = {"Location": f"/jobs/{job.id}", "Retry-After": "1"}
    return Stored(202, headers, shown(session, model).model_dump(mode="json"))


def _fit(session: Session, home: Home, model: Model) -> Job:
    queue = home.settings.training_queue
    return jobs.submit(session, kind="fit", dataset_id=model.dataset_id, model_id=model.id, method=None, now=moment(session), queue=queue)


def _check_against_data(body: ModelBody, dataset: Dataset) -> None:
    """Refuse a model that the data set cannot feed.

    Raises:
        Problem: 422.
    """
    assert dataset.summary is not None
    roles, image = dataset.summary["roles"], len(dataset.summary["shape"]) == 3
    if body.core != "none" and roles["core"]["rows"] < 2:
        raise Problem(
            422,
            "core_rows",
            "The data set has fewer than 2 core rows. Upload some with role core, or use core `none`.",
            errors=[at("/dataset", "has fewer than 2 core rows")],
        )
    if not image and body.architecture.name not in ("linear", "mlp"):
        raise Problem(
            422,
            "architecture_input",
            "This network takes images; the data set has features. Use linear or mlp.",
            errors=[at("/architecture/name", "takes images")],
        )
    core_labels = [label for label, _ in roles["core"]["labels"]]
    classes = body.classes or core_labels
    if len(classes) < 2:
        raise Problem(422, "classes", "The core rows have fewer than 2 labels; declare `classes`.", errors=[at("/classes", "fewer than 2")])
    outside = {role: sum(count for label, count in roles[role]["labels"] if label not in classes) for role in roles}
    if any(outside.values()):
        rows = ", ".join(f"{count} {role}" for role, count in outside.items() if count)
        raise Problem(
            422,
            "label_outside_classes",
            f"Rows have labels outside the model's classes: {rows}. Declare `classes` or remove them.",
            errors=[at("/classes", "does not hold every label of the data set")],
        )


@uploads_router.put(
    "/models/{name}/core",
    status_code=202,
    response_model=ModelOut,
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
    },
)
async def put_core(name: str, request: Request, home: OpenHome, caller: MayAdmin, response: Response) -> Any:
    """Give the core's network weights (safetensors) to a model created with `core: upload`; its fit begins."""
    await run_in_threadpool(_awaiting, home, name)
    blob = ids.new("up")
    try:
        sealed = await uploads.receive(request, home, blob, min(MAX_CORE, home.settings.max_upload_bytes))
        job, out = await run_in_threadpool(_take_core, home, name, sealed)
    except OUTAGE:  # whether the record took it is unknown: the blob may be needed, and is swept later if it is not
        raise
    except BaseException:
        await run_in_threadpool(home.vault.shred, blob)
        raise
    home.wake.set()
    response.headers.update({"Location": f"/jobs/{job}", "Retry-After": "1"})
    return out


def _awaiting(home: Home, name: str) -> None:
    with home.db.read() as session:
        _refuse_core(model_named(session, name))


def _refuse_core(model: Model) -> None:
    if model.state not in ("awaiting_core", "failed") or model.spec["core"] != "upload":
        raise Problem(409, "core_not_awaited", "The model does not wait for a core: create one with core `upload`.")


def _take_core(home: Home, name: str, sealed: Sealed) -> tuple[str, ModelOut]:
    with home.vault.open(sealed.blob_id) as source:
        check_header(source, sealed.size)
    with home.db.write() as session:
        locks.exclusive(session, "model", name)
        model = model_named(session, name)
        _refuse_core(model)
        if model.given_core_blob:  # of a fit that failed
            erasure.schedule(session, [model.given_core_blob], job_id=None, what="uploaded core", due_at=moment(session))
        model.given_core_blob, model.state, model.error = sealed.blob_id, "fitting", None
        job = _fit(session, home, model)
        return job.id, shown(session, model)


@router.get("/models", response_model=Page)
def list_models(
    home: OpenHome,
    caller: MayRead,
    response: Response,
    after: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = LIMIT,
) -> Any:
    """Models, newest first."""
    with home.db.read() as session:
        rows, cursor = page(session, select(Model), Model.id, after, limit)
        link_next(response, "/models", cursor)
        return {"items": [shown(session, m) for m in rows], "next": cursor}


@router.get("/models/{name}", response_model=ModelOut)
def get_model(name: str, home: OpenHome, caller: MayRead) -> Any:
    """A model: its form, its state, its latest certified version."""
    with home.db.read() as session:
        return shown(session, model_named(session, name))


def shown(session: Session, model: Model) -> ModelOut:
    dataset, latest = session.get(Dataset, model.dataset_id), outcomes.latest(session, model.id)
    assert dataset is not None
    job = session.scalars(select(Job.id).where(Job.model_id == model.id, Job.kind == "fit").order_by(Job.id.desc())).first()
    return ModelOut(
        id=model.id,
        name=model.name,
        dataset=dataset.name,
        state=model.state,
        spec=model.spec,
        error=model.error,
        latest_certified=latest.number if latest else None,
        created_at=model.created_at,
        job=job,
    )
