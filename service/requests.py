"""The legal side of forgetting: a request is received on a day, has a due date, joins a job, and ends with dispositions."""

from __future__ import annotations

import calendar
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import ScalarSelect, bindparam, insert, select, update
from sqlalchemy.orm import Session

from service import attributes, auditing, ids, jobs, locks
from service.addressee import Addressee
from service.auth import Caller
from service.problem import Problem, at, not_found
from service.ready import Ready
from service.removal import BudgetIn, ForgetAttribute
from service.schemas import ForgetBody, ForgetSamples, GuaranteeIn, OptionsIn, RequestOut
from service.states import FINAL_REQUEST, Queue, RequestState
from service.tables import Dataset, Job, Model, Request

WHY = {
    "exact": "The user weights are linear in fixed integer features: removing rows gives the very bits that refitting without them gives. "
    "Rows of the core are answered `core_sample`; method `retrain` removes those too.",
    "retrain": "Core and user weights are trained again without the rows: exact by definition, and the only way to forget a core sample.",
    "cg": "The user weights are linear in the network's parameters: one Newton step on the rows that stay, by preconditioned conjugate "
    "gradients, released with noise. Nothing stronger is cheaper here: it cannot be told from refitting without the rows but to the mu "
    "that is stated, at most the model's mu_max. Rows of the core are answered `core_sample`; method `retrain` removes those too.",
    "sgd": "The same Newton step and the same guarantee as `cg`, by stochastic gradient descent, for comparison. It may not get there.",
    "zero": "All user rows go: user weights of zero are what refitting on no user row gives, bit for bit.",
}

AUDITS = {
    "exact": ("membership", "differencing", "decoder"),
    "cg": ("membership", "differencing", "decoder"),
    "sgd": ("membership", "differencing", "decoder"),
    "retrain": ("membership",),
}
"""What can be measured beside the proof, by method; by `retrain` of a model of fixed features without a removed attribute alone."""


TRAINING = {"retrain", "cg", "sgd"}
"""Methods that pass through a network many times, as training does. Others read rows that were encoded before."""


def month_later(start: datetime) -> datetime:
    """One calendar month on; the last day of a shorter month (GDPR Art. 12(3); Regulation 1182/71 Art. 3)."""
    year, month = (start.year + 1, 1) if start.month == 12 else (start.year, start.month + 1)
    return start.replace(year=year, month=month, day=min(start.day, calendar.monthrange(year, month)[1]))


def choose_method(model: Addressee, body: ForgetBody) -> str:
    """The method that will be used; `auto` takes the strongest guarantee that the model's form allows.

    Raises:
        Problem: 422 `method_unsupported`, with what can be used instead.
    """
    if isinstance(body.forget, ForgetAttribute):
        allowed = list(attributes.WHY)
    elif attributes.trained_on_users(model.spec):
        allowed = ["retrain"]
    elif body.forget.kind == "everything":
        allowed = ["zero"]
    elif model.spec.get("linearize"):
        allowed = ["cg", "sgd", "retrain"]
    else:
        allowed = ["exact"] if model.spec["core"] == "none" else ["exact", "retrain"]
    method = allowed[0] if body.method == "auto" else body.method
    if method not in allowed:
        raise Problem(
            422,
            "method_unsupported",
            f"This request on this model allows: auto, {', '.join(name for name in allowed if name != 'auto')}.",
            errors=[at("/method", "not supported here")],
        )
    possible = AUDITS.get(method, ()) if method != "retrain" or not (model.spec.get("linearize") or attributes.erased(model.spec)) else ()
    if set(body.audits) - set(possible):
        known = ", ".join(possible) or "none; audit the version afterwards"
        raise Problem(
            422,
            "audits_unsupported",
            f"With method {method} a request can have these audits: {known}.",
            errors=[at("/audits", "not supported here")],
        )
    if isinstance(body.options, OptionsIn) and method not in ("cg", "sgd"):
        raise Problem(
            422,
            "options_unsupported",
            f"Method {method} is exact and takes no options; cg and sgd, of linearised models, do.",
            errors=[at("/options", "not supported here")],
        )
    return method


_KINDS = {"text": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,)}


def _check_against_data(session: Session, model: Addressee, body: ForgetBody) -> None:
    """Refuse a `where` that the data set's columns cannot answer, and a decoder of what are no images.

    Raises:
        Problem: 422.
    """
    if not isinstance(body.forget, ForgetSamples) or (body.forget.where is None and "decoder" not in body.audits):
        return
    dataset = session.get(Dataset, model.dataset_id)
    if dataset is None or dataset.summary is None:
        return
    if "decoder" in body.audits:
        auditing.redrawn(dataset.summary["shape"])
    if body.forget.where is None:
        return
    where, summary = body.forget.where, dataset.summary
    if where.label is not None and isinstance(where.label, str) != summary["text_labels"]:
        kind = "text" if summary["text_labels"] else "a whole number"
        raise Problem(422, "label_type", f"Labels of this data set are {kind}.", errors=[at("/forget/where/label", f"must be {kind}")])
    if set(where.attributes) - set(summary["attributes"]):
        raise Problem(
            422,
            "attribute_unknown",
            f"This data set has the attributes: {', '.join(summary['attributes']) or 'none'}.",
            errors=[at("/forget/where/attributes", "names an attribute that the data set does not have")],
        )
    for name, value in where.attributes.items():
        kind = summary["attributes"][name]
        if type(value) not in _KINDS[kind]:
            raise Problem(
                422,
                "attribute_type",
                f"The attribute {name} of this data set is {kind}.",
                errors=[at(f"/forget/where/attributes/{name}", f"must be {kind}")],
            )


def receive(
    session: Session,
    caller: Caller,
    model: Addressee,
    body: ForgetBody,
    *,
    body_blob: str,
    now: datetime,
    training_queue: Queue = "cpu",
) -> tuple[RequestOut, bool]:
    """Accept a request and attach it to the model's one queued job, making the job if there is none. True: it was made."""
    _check_against_data(session, model, body)
    if model.state != "ready":
        raise Problem(
            409,
            "model_not_ready",
            f"The model is {model.state}; it can forget once its first version is certified.",
            headers={"Retry-After": "2"} if model.state == "fitting" else None,
        )
    method = choose_method(model, body)
    wished: BudgetIn | GuaranteeIn | None = body.guarantee
    job_id, made = None, True
    if isinstance(body.forget, ForgetAttribute):
        attributes.check(session, model, body.forget, body)
        wished = attributes.budget(body)
        job_id = attributes.new_job(session, model, method, training_queue, now, due_at=month_later(now))
    request = {
        "id": ids.new("req"),
        "model_id": model.id,
        "caller": caller.id,
        "kind": body.forget.kind,
        "method": method,
        "why": (attributes.WHY if job_id else WHY)[method],
        "guarantee": {"asked": wished.model_dump(mode="json", exclude_none=True) if wished else None, "given": None},
        "state": "received",
        "reason": body.reason,
        "reference": body.reference,
        "body_blob": body_blob,
        "received_at": now,
        "due_at": month_later(now),
    }
    if job_id:
        session.connection().execute(insert(Request).values(job_id=job_id, **request))
    else:
        joined = _JOIN.first(session, **request)
        made = joined is None
        if joined is None:
            _new_job(session, model, method, training_queue if method in TRAINING else "cpu", now)
            joined = _JOIN.first(session, **request)
            assert joined is not None
        (job_id,) = joined
    # Its job has not begun; nothing is read back.
    not_yet = dict.fromkeys(("version", "finished_at", "dispositions", "certificate"))
    return RequestOut.model_validate(request | not_yet | {"model": body.model, "job": job_id}), made


_GIVEN = [
    Request.__table__.columns[name]
    for name in (
        *("id", "model_id", "caller", "kind", "method", "why", "guarantee", "state"),
        *("reason", "reference", "body_blob", "received_at", "due_at"),
    )
]
"""What is known of a request as it comes in, but for its job."""

_JOIN = Ready(
    insert(Request)
    .from_select([*_GIVEN, "job_id"], jobs.QUEUED_FORGET.with_only_columns(*(bindparam(c.name, type_=c.type) for c in _GIVEN), Job.id))
    .returning(Request.job_id)
)
"""Adds a request to the queued job that it joins, if there is one."""


def _new_job(session: Session, model: Addressee, method: str, queue: Queue, now: datetime) -> None:
    """The one queued job that this and further requests join; of two who come here at once, the second finds the first's."""
    locks.exclusive(session, "new job", model.id, method)
    if session.execute(jobs.QUEUED_FORGET, {"model_id": model.id, "method": method}).first() is None:
        jobs.submit(
            session,
            kind="forget",
            dataset_id=model.dataset_id,
            model_id=model.id,
            method=method,
            now=now,
            queue=queue,
            due_at=month_later(now),
        )


def of_job(session: Session, job_id: str) -> list[Request]:
    return list(session.scalars(_OF_JOB, {"job_id": job_id}))


_OF_JOB = select(Request).where(Request.job_id == bindparam("job_id"), Request.state != "cancelled").order_by(Request.id)
_BODIES = _OF_JOB.with_only_columns(Request.id, Request.body_blob)
_BEGIN = update(Request).where(Request.job_id == bindparam("whole"), Request.state != "cancelled").values(state="in_progress")


def bodies_of_job(session: Session, job_id: str) -> list[dict[str, Any]]:
    """By name, the blob that holds what was asked."""
    return [{"id": name, "body": blob} for name, blob in session.execute(_BODIES, {"job_id": job_id})]


def names_in_job(in_one_text: Any) -> ScalarSelect[str]:
    """A column beside a job: the same requests by name alone, because thousands may have joined a job that somebody polls.

    Args:
        in_one_text: the database's own function that joins texts.
    """
    return select(in_one_text(Request.id, " ")).where(Request.job_id == Job.id, Request.state != "cancelled").scalar_subquery()


def begin(session: Session, job_id: str) -> None:
    session.flush()
    session.connection().execute(_BEGIN, {"whole": job_id})


def final_state(dispositions: Mapping[str, Any]) -> RequestState:
    """How a request ends, from its counts: nothing refused is fulfilled; nothing but refused is refused; else partial."""
    counts = dispositions["counts"]
    if "attribute" in dispositions:
        return "fulfilled" if dispositions["attribute"]["disposition"] == "removed" else "refused"
    refused = counts.get("core_sample", 0) + counts.get("refused", 0)
    if not refused:
        return "fulfilled"
    return "partial" if counts.get("forgotten", 0) or counts.get("already_forgotten", 0) else "refused"


def end(session: Session, job_id: str, now: datetime) -> None:
    """Give every request of the job that has its dispositions its final state, and drop the pointer to what was asked."""
    for request in of_job(session, job_id):
        if request.state == "in_progress" and request.dispositions is not None:
            request.state, request.finished_at, request.body_blob = final_state(request.dispositions), now, None


def cancel(session: Session, request_id: str, now: datetime) -> Request:
    """Take a request back. Its job is cancelled with its last request; a job that has begun can no longer be joined or left by halves.

    Raises:
        Problem: 404; 409 when the request has ended or its job publishes other people's requests too.
    """
    request = session.get(Request, request_id)
    if request is None:
        raise not_found("request")
    jobs.closing(session, request.model_id)
    session.refresh(request)
    if request.state in FINAL_REQUEST:
        raise Problem(409, "request_ended", "The request has ended; nothing can be cancelled any more.")
    job = session.get(Job, request.job_id)
    assert job is not None
    others = [r for r in of_job(session, job.id) if r.id != request.id]
    if job.state == "running" and others:
        raise Problem(409, "job_running", "Other requests are being carried out in the same job; it cannot be stopped for one of them.")
    if jobs.is_final(job.state) or (not others and not jobs.cancel(session, job.id, now=now)):
        raise Problem(409, "job_ended", "The new version is published; what is left is destroying the old data.")
    request.state, request.finished_at = "cancelled", now
    return request


def shown(session: Session, request: Request) -> RequestOut:
    """A request as its caller sees it: never the ids."""
    model, job = session.get(Model, request.model_id), session.get(Job, request.job_id)
    assert model is not None
    return _out(request, model.name, job)


def _out(request: Request, model: str, job: Job | None) -> RequestOut:
    return RequestOut(
        id=request.id,
        model=model,
        kind=request.kind,
        state=request.state,
        method=request.method,
        why=request.why,
        guarantee=request.guarantee or {"asked": None, "given": None},
        reason=request.reason,
        reference=request.reference,
        job=request.job_id,
        version=job.version if job else None,
        received_at=request.received_at,
        due_at=request.due_at,
        finished_at=request.finished_at,
        dispositions=request.dispositions,
        certificate=f"/jobs/{job.id}/certificate" if job and job.statement else None,
    )
