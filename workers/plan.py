"""A plan: everything a step needs to know, read from the record in one moment. The child has no database."""

from __future__ import annotations

from typing import Any

from sqlalchemy import bindparam, func, or_, select
from sqlalchemy.orm import Session

from service import outcomes, requests
from service.home import Home
from service.jobs import Claim
from service.tables import Dataset, DatasetBlock, Job, Model, ModelBlock, Tombstone, Version

LEAST_PARTS = 4
"""Fewer parts than this are not handed out: writing the core and sums down, and waiting for helpers, would cost what they save."""


def plan_of(session: Session, home: Home, held: Claim) -> dict[str, Any]:
    job = session.get(Job, held.job_id)
    assert job is not None
    dataset = session.get(Dataset, job.dataset_id)
    assert dataset is not None
    common: dict[str, Any] = {"kind": job.kind, "prefix": f"{held.stem}-{held.fence}-"}
    if job.kind == "validate":
        return common | {"source": dataset.source_blob, "max_rows": home.settings.max_rows, "max_expansion": home.settings.max_expansion}
    if job.kind == "block":
        return common | _part(session, job, dataset)
    model = session.get(Model, job.model_id)
    assert model is not None
    trains, linear = job.kind == "fit" or job.method == "retrain", bool(model.spec.get("linearize"))
    if home.settings.distributed and (job.method == "cg" if linear else trains and not model.spec.get("erased")):
        common["groups"] = _groups(session, dataset, home.settings.part_rows)
    common |= {"dataset": _dataset(session, dataset), "spec": model.spec}
    if job.kind == "audit":
        return common | _audit(session, job, model)
    if job.kind == "fit":
        return common | {"given_core": model.given_core_blob}
    return common | _forget(session, home, job, model)


def continued(plan: dict[str, Any], outcome: dict[str, Any], results: list[Any], seconds: float) -> dict[str, Any]:
    """The plan of the rest of a split job, whose parts are done; it may split once more.

    Args:
        outcome: of the job up to here.
        seconds: how long the parts took.
    """
    split, spent = outcome["split"], outcome["seconds"]
    spent = spent | {split["phase"]: round(spent.get(split["phase"], 0.0) + seconds, 6)}
    parts = {"base": split["base"], "results": results, "seconds": spent}
    # Named apart: what came before counted its blobs from 1 as well.
    return plan | {"prefix": f"{plan['prefix']}end-", "parts": parts}


def _part(session: Session, part: Job, dataset: Dataset) -> dict[str, Any]:
    model = session.scalars(select(Model).join(Job, Job.model_id == Model.id).where(Job.id == part.parent_id)).one()
    assert part.task is not None and dataset.summary is not None
    return {"spec": model.spec, "dataset": {"shape": dataset.summary["shape"]}} | part.task


def _groups(session: Session, dataset: Dataset, part_rows: int) -> list[list[list[Any]]]:
    """Neighbouring blocks of about `part_rows` rows together; none where one process is about as quick."""
    groups: list[list[list[Any]]] = []
    room = 0
    blocks = select(DatasetBlock.number, DatasetBlock.blob, DatasetBlock.rows).where(DatasetBlock.dataset_id == dataset.id)
    for number, blob, rows in session.execute(blocks.order_by(DatasetBlock.number)):
        if rows > room:
            groups.append([])
            room = part_rows
        groups[-1].append([number, blob])
        room -= rows
    return groups if len(groups) >= LEAST_PARTS else []


def _dataset(session: Session, dataset: Dataset) -> dict[str, Any]:
    blocks = session.execute(_DATASET_BLOCKS, {"owner": dataset.id}).all()
    assert dataset.summary is not None
    return {
        "blocks": [list(b) for b in blocks],
        "index": dataset.index_blob,
        "shape": dataset.summary["shape"],
        "text_labels": dataset.summary["text_labels"],
    }


def looks_at(session: Session, dataset_id: str) -> int:
    """How often a removal was refused after a look at a data set's deciding audit rows; a retraining looks when it removes again."""
    return session.execute(_LOOKS, {"dataset": dataset_id}).scalar_one()


def _audit(session: Session, job: Job, model: Model) -> dict[str, Any]:
    assert job.task is not None
    version = session.get_one(Version, (model.id, job.task["version"]))
    return {
        "task": job.task,
        "certified": version.state == "certified",
        "method": version.facts["method"],
        "files": version.files,
        "state": model.state_blobs,
        "blocks": [list(b) for b in session.execute(_MODEL_BLOCKS, {"owner": model.id})],
    }


def _forget(session: Session, home: Home, job: Job, model: Model) -> dict[str, Any]:
    parent = outcomes.latest(session, model.id)
    assert parent is not None
    blocks = session.execute(_MODEL_BLOCKS, {"owner": model.id}).all()
    others = session.execute(_OTHERS, {"dataset": model.dataset_id, "model": model.id})
    return {
        "method": job.method,
        "model_id": model.id,
        "parent": parent.number,
        "files": parent.files,
        "state": model.state_blobs,
        "blocks": [list(b) for b in blocks],
        "others": [{"name": o.name, "index": o.state_blobs["index"]} for o in others if o.state_blobs],
        "requests": requests.bodies_of_job(session, job.id),
        "secret": home.secret.hex(),
        "job": job.id,
        "looks": looks_at(session, model.dataset_id),
        "checkpoint": job.checkpoint,
        "checkpoint_seconds": home.settings.checkpoint_seconds,
        "tombstones": list(session.scalars(_TOMBSTONES, {"model": model.id})),
    }


_DATASET_BLOCKS = (
    select(DatasetBlock.number, DatasetBlock.blob).where(DatasetBlock.dataset_id == bindparam("owner")).order_by(DatasetBlock.number)
)
_MODEL_BLOCKS = select(ModelBlock.number, ModelBlock.blob).where(ModelBlock.model_id == bindparam("owner")).order_by(ModelBlock.number)
_OTHERS = select(Model.name, Model.state_blobs).where(Model.dataset_id == bindparam("dataset"), Model.id != bindparam("model"))
_JUDGED = or_(Job.kind == "erase", Job.method == "retrain")
_LOOKS = select(func.count()).select_from(Job).where(_JUDGED, Job.dataset_id == bindparam("dataset"), Job.state == "refused")
_TOMBSTONES = select(Tombstone.tag).where(Tombstone.model_id == bindparam("model"))
