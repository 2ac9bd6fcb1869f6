"""How jobs end: each function is one transaction, and only counts if the worker's fence is still the row's.

Each takes hold of the job's row first: whoever cancels or sweeps the job waits there, and never half-way through."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, delete, func, select
from sqlalchemy.orm import Session

from service import erasure, jobs, log, pictures, requests
from service.jobs import Claim
from service.states import JobState
from service.tables import Certificate, Dataset, DatasetBlock, Job, Model, ModelBlock, Request, Tombstone, Version


@dataclass(frozen=True)
class Signed:
    """A signed statement on its way into the record."""

    digest: str
    """sha256 of the statement."""
    kind: str
    files: Mapping[str, str]
    """Everything but inclusion.json, which waits for the log position."""
    leaf: bytes
    """What the log hashes."""
    inclusion: Callable[[int, int, bytes, bytes, list[bytes]], str]
    """(index, size, leaf, root, path) -> the text of inclusion.json."""


def validated(session: Session, held: Claim, outcome: Mapping[str, Any], now: datetime) -> None:
    """A data set was read in full: its blocks and index stand, the uploaded file goes."""
    jobs.hold(session, held)
    dataset = _dataset(session, held)
    session.add_all(DatasetBlock(dataset_id=dataset.id, **block) for block in outcome["blocks"])
    assert dataset.source_blob is not None
    erasure.schedule(session, [dataset.source_blob], job_id=None, what="uploaded file", due_at=now)
    dataset.state, dataset.index_blob, dataset.summary, dataset.source_blob = "ready", outcome["index"], outcome["summary"], None
    jobs.finish(session, held, state="done", now=now, seconds=outcome["seconds"])


def carried_out(session: Session, held: Claim, outcome: Mapping[str, Any], now: datetime) -> None:
    """A part of a job is done: what it made stands in its row until the job has used it, or ends."""
    jobs.finish(session, held, state="done", now=now, result=outcome["result"], seconds=outcome["seconds"])


def fitted(session: Session, held: Claim, outcome: Mapping[str, Any], signed: Signed, now: datetime) -> None:
    """A model has its first version."""
    jobs.hold(session, held)
    model = _model(session, held)
    session.add_all(ModelBlock(model_id=model.id, **block) for block in outcome["blocks"])
    if model.given_core_blob:
        erasure.schedule(session, [model.given_core_blob], job_id=None, what="uploaded core", due_at=now)
    model.state, model.state_blobs, model.spec, model.given_core_blob = "ready", outcome["state"], outcome["spec"], None
    statement = _sign_in(session, held, signed, now)
    _add_version(session, model, held, outcome, statement, now)
    jobs.finish(session, held, state="done", now=now, version=1, statement=statement, seconds=outcome["seconds"])


def forgotten(session: Session, held: Claim, outcome: Mapping[str, Any], signed: Signed, now: datetime, rollback: timedelta) -> None:
    """The new version, its certificate and its log leaf appear; the parent is withdrawn; the forgotten rows are due to go."""
    jobs.hold(session, held)
    model, dataset = _model(session, held), _dataset(session, held)
    parent = latest(session, model.id)
    assert parent is not None and parent.number == outcome["parent"]
    old = _swap_blocks(session, ModelBlock, ModelBlock.model_id, model.id, outcome["blocks"])
    old += _swap_blocks(session, DatasetBlock, DatasetBlock.dataset_id, dataset.id, outcome["dataset_blocks"])
    if outcome["dataset_index"]:
        assert dataset.index_blob is not None
        old.append(dataset.index_blob)
        dataset.index_blob, dataset.summary = outcome["dataset_index"], outcome["summary"]
    old += [b for name, b in (model.state_blobs or {}).items() if outcome["state"][name] != b]
    model.state_blobs = outcome["state"]
    session.add_all(Tombstone(model_id=model.id, tag=tag) for tag in outcome["tombstones"])
    _conclude(session, held.job_id, outcome["requests"], now)
    erasure.schedule(session, old, job_id=held.job_id, what="rows and statistics of a forget set", due_at=now)
    kept = {f["blob"] for f in outcome["files"].values()}
    for version in session.scalars(select(Version).where(Version.model_id == model.id)):
        gone = [f["blob"] for f in version.files.values() if f["blob"] not in kept]
        erasure.schedule(session, gone, job_id=held.job_id, what="weights of a withdrawn version", due_at=now + rollback)
    erasure.schedule(session, pictures.take_out(session, model.id), job_id=held.job_id, what="pictures of samples in evidence", due_at=now)
    shown = pictures.blobs(outcome.get("evidence"))
    erasure.schedule(session, shown, job_id=held.job_id, what=pictures.FORGOTTEN, due_at=now + rollback)
    parent.state, parent.withdrawn_at = "withdrawn", now
    statement = _sign_in(session, held, signed, now)
    model.spec = _first_stated(outcome["spec"], statement)
    number = _add_version(session, model, held, outcome, statement, now)
    done = {"version": number, "statement": statement, "seconds": outcome["seconds"], "evidence": outcome.get("evidence")}
    jobs.finish(session, held, state="done", now=now, **done)


def _first_stated(spec: Mapping[str, Any], statement: str) -> dict[str, Any]:
    """The model's form, in which each attribute names the statement under which its findings were first stated."""
    if "erased" not in spec:
        return dict(spec)
    return dict(spec) | {"erased": [entry | {"statement": entry["statement"] or statement} for entry in spec["erased"]]}


def nothing_gone(session: Session, held: Claim, outcome: Mapping[str, Any], signed: Signed | None, now: datetime) -> None:
    """Nothing was forgotten: no version. A job that was refused, with everything in it, ends refused, with a signed statement."""
    jobs.hold(session, held)
    _conclude(session, held.job_id, outcome["requests"], now)
    statement = _sign_in(session, held, signed, now) if signed else None
    state: JobState = "refused" if signed else "done"
    ended = {"statement": statement, "seconds": outcome["seconds"], "error": outcome.get("refusal"), "evidence": outcome.get("evidence")}
    if "solver" in outcome:
        ended["result"] = {"solver": outcome["solver"]}
    jobs.finish(session, held, state=state, now=now, **ended)


def audited(session: Session, held: Claim, outcome: Mapping[str, Any], signed: Signed, now: datetime) -> None:
    """A version was audited: the signed statement and its evidence stand; nothing else has changed, whatever was found."""
    jobs.hold(session, held)
    statement = _sign_in(session, held, signed, now)
    done = {"statement": statement, "seconds": outcome["seconds"], "evidence": outcome["evidence"]}
    jobs.finish(session, held, state="done", now=now, **done)


def failed(session: Session, held: Claim, error: Mapping[str, Any], now: datetime) -> None:
    """The job could not run, and would not the next time either."""
    jobs.finish(session, held, state="failed", now=now, error=error)
    after_failure(session, held.job_id, error, now)


def after_failure(session: Session, job_id: str, error: Mapping[str, Any], now: datetime) -> None:
    """What else ends when a job ends failed: its requests, the data set or the model that waited for it."""
    job = session.get(Job, job_id)
    assert job is not None
    asked = requests.of_job(session, job_id)
    for request in asked:
        request.state, request.finished_at = "failed", now
    drop_bodies(session, asked, job_id, now)
    if job.kind == "validate":
        dataset = session.get(Dataset, job.dataset_id)
        assert dataset is not None
        dataset.state, dataset.error = "failed", dict(error)
        if dataset.source_blob:
            erasure.schedule(session, [dataset.source_blob], job_id=None, what="uploaded file", due_at=now)
            dataset.source_blob = None
    if job.kind == "fit":
        model = session.get(Model, job.model_id)
        assert model is not None
        model.state, model.error = "failed", dict(error)


def drop_bodies(session: Session, asked: list[Request], job_id: str | None, now: datetime) -> None:
    """What was asked is personal data: it goes as soon as nobody needs it."""
    bodies = [request.body_blob for request in asked if request.body_blob]
    erasure.schedule(session, bodies, job_id=job_id, what="body of a request", due_at=now)
    for request in asked:
        request.body_blob = None


def latest(session: Session, model_id: str) -> Version | None:
    """The latest certified version: the parent of the next."""
    return session.scalars(_LATEST, {"model_id": model_id}).first()


def _conclude(session: Session, job_id: str, results: Mapping[str, Any], now: datetime) -> None:
    asked = requests.of_job(session, job_id)
    for request in asked:
        result = results[request.id]
        request.dispositions, request.receipts_blob = result["dispositions"], result.get("receipts")
        request.guarantee = (request.guarantee or {"asked": None}) | {"given": result.get("guarantee")}
    drop_bodies(session, asked, job_id, now)


def _sign_in(session: Session, held: Claim, signed: Signed, now: datetime) -> str:
    size, root, path = log.append(session, signed.leaf, now)
    files = dict(signed.files) | {"inclusion.json": signed.inclusion(size - 1, size, signed.leaf, root, path)}
    session.add(Certificate(statement=signed.digest, kind=signed.kind, job_id=held.job_id, files=files))
    session.flush()
    return signed.digest


def _add_version(session: Session, model: Model, held: Claim, outcome: Mapping[str, Any], statement: str, now: datetime) -> int:
    number = (session.scalar(select(func.max(Version.number)).where(Version.model_id == model.id)) or 0) + 1
    session.add(
        Version(
            model_id=model.id,
            number=number,
            state="certified",
            job_id=held.job_id,
            statement=statement,
            files=outcome["files"],
            facts={"method": outcome["method"], "utility": outcome["utility"], "solver": outcome.get("solver")} | _removed(outcome["spec"]),
            created_at=now,
        )
    )
    session.flush()
    return number


def _removed(spec: Mapping[str, Any]) -> dict[str, Any]:
    shown = ("name", "values", "data", "claim", "method", "scope", "budget", "findings", "figures")
    return {"removed": [{key: entry[key] for key in shown} for entry in spec["erased"]]} if spec.get("erased") else {}


def _swap_blocks(session: Session, table: Any, owner: Any, owner_id: str, changed: Iterable[Mapping[str, Any]]) -> list[str]:
    """Point the changed blocks at their rewritten blobs; drop the emptied ones. Returns the old blobs."""
    old = []
    for block in changed:
        row = session.get(table, (owner_id, block["number"]))
        if row is not None:
            old.append(row.blob)
        if not block["rows"]:
            session.execute(delete(table).where(owner == owner_id, table.number == block["number"]))
        elif row is None:
            session.add(table(**{owner.key: owner_id}, **block))
        else:
            row.blob, row.rows = block["blob"], block["rows"]
    return old


def _dataset(session: Session, held: Claim) -> Dataset:
    return session.scalars(_DATASET, {"job_id": held.job_id}).one()


def _model(session: Session, held: Claim) -> Model:
    return session.scalars(_MODEL, {"job_id": held.job_id}).one()


_LATEST = (
    select(Version)
    .where(Version.model_id == bindparam("model_id"), Version.state == "certified")
    .order_by(Version.number.desc())
    .limit(1)
)
_DATASET = select(Dataset).join(Job, Job.dataset_id == Dataset.id).where(Job.id == bindparam("job_id"))
_MODEL = select(Model).join(Job, Job.model_id == Model.id).where(Job.id == bindparam("job_id"))
