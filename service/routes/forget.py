"""POST /forget and the requests that it makes."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse
from sqlalchemy import select
from sqlalchemy.orm import Session

from expunge import merkle
from service import attributes, idempotency, outcomes, requests
from service.addressee import addressee
from service.auth import Caller
from service.db import moment
from service.deps import IdempotencyKey, MayForget, MayReadRequests, OpenHome, model_named, tag_of
from service.home import Home
from service.idempotency import Stored
from service.pages import LIMIT, link_next, page
from service.problem import Problem, not_found
from service.removal import ForgetAttribute
from service.schemas import ForgetBody, Page, ReceiptBody, RequestOut
from service.states import RequestState
from service.tables import Request

router = APIRouter(tags=["forget"])


@router.post("/forget", status_code=202, response_model=RequestOut)
def forget(body: ForgetBody, home: OpenHome, caller: MayForget, key: IdempotencyKey = None) -> Any:
    """Ask a model to forget. Answers at once with a job to poll; the same `Idempotency-Key` returns the same answer."""
    tag, stored = "", None
    if key is not None:
        tag = tag_of(home, "POST /forget", body)
        with home.db.read() as session:
            stored = idempotency.recall(session, caller.id, key, tag)
    if stored is None:
        stored = _accept(home, caller, body, key, tag)
    return JSONResponse(stored.body, stored.status, stored.headers)


def _accept(home: Home, caller: Caller, body: ForgetBody, key: str | None, tag: str) -> Stored:
    # What is asked names people: it is sealed before the record learns of the request, and the record never sees it. The commit that
    # makes the request durable makes the blob so.
    blob = home.ahead.put(_sealed_form(body))
    kept = made = False
    try:
        with home.db.write() as session:
            stored = idempotency.recall(session, caller.id, key, tag)
            if stored is None:
                model, instant = addressee(session, body.model)
                queue = home.settings.training_queue
                request, made = requests.receive(session, caller, model, body, body_blob=blob, now=instant, training_queue=queue)
                stored = Stored(202, {"Location": f"/jobs/{request.job}", "Retry-After": "1"}, request.model_dump(mode="json"))
                idempotency.keep(session, caller.id, key, tag, stored, instant)
                kept = True
    finally:
        if not kept:
            home.vault.shred(blob)
    if made:  # of a job that was waiting already, whoever is to begin it has been told
        home.wake.set()
    return stored


def _sealed_form(body: ForgetBody) -> bytes:
    asked = body.forget.model_dump(mode="json")
    wishes = body.model_dump(mode="json", include={"guarantee", "options", "audits"})
    if isinstance(body.forget, ForgetAttribute):
        wishes |= {"budget": attributes.budget(body).model_dump(mode="json"), "data": body.data or "core", "claim": body.claim or "any"}
    return json.dumps(asked | wishes | {"seed": secrets.token_hex(32)}).encode()


@router.get("/forget", response_model=Page)
def list_requests(
    home: OpenHome,
    caller: MayReadRequests,
    response: Response,
    state: RequestState | None = None,
    model: str | None = None,
    due_before: datetime | None = None,
    after: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = LIMIT,
) -> Any:
    """Requests, newest first."""
    with home.db.read() as session:
        query = select(Request)
        if state:
            query = query.where(Request.state == state)
        if model:
            query = query.where(Request.model_id == model_named(session, model).id)
        if due_before:
            query = query.where(Request.due_at < (due_before if due_before.tzinfo else due_before.replace(tzinfo=UTC)))
        rows, cursor = page(session, query, Request.id, after, limit)
        link_next(response, "/forget", cursor)
        return {"items": [requests.shown(session, r) for r in rows], "next": cursor}


@router.get("/forget/{request_id}", response_model=RequestOut)
def get_request(request_id: str, home: OpenHome, caller: MayReadRequests) -> Any:
    """One request with its dispositions: counts, and a word for each id in the order in which they were sent."""
    with home.db.read() as session:
        return requests.shown(session, _request(session, request_id))


@router.post("/forget/{request_id}/cancel", response_model=RequestOut)
def cancel(request_id: str, home: OpenHome, caller: MayForget) -> Any:
    """Take a request back, as long as nothing is published."""
    with home.db.write() as session:
        instant = moment(session)
        request = requests.cancel(session, request_id, instant)
        outcomes.drop_bodies(session, [request], None, instant)
        shown = requests.shown(session, request)
    home.wake.set()
    return shown


@router.post("/forget/{request_id}/receipts")
def receipts(request_id: str, body: ReceiptBody, home: OpenHome, caller: MayReadRequests) -> dict[str, Any]:
    """Receipts for samples that this request forgot: proof that each was in the forget set, revealing nobody else.

    The service no longer knows the ids: send them. One receipt an id, null where it was not in this request's part of the set.
    """
    with home.db.read() as session:
        request = _request(session, request_id)
        if request.receipts_blob is None:
            raise Problem(409, "no_receipts", "The request has forgotten nothing (yet); receipts exist once its version is published.")
        kept = json.loads(home.vault.read(request.receipts_blob))
    ordered = sorted(bytes.fromhex(v) for v in kept["values"])
    salts = [bytes.fromhex(s) for s in kept["salts"][request.id]]
    return {"commitment": asdict(merkle.commit(ordered)), "receipts": _receipts(body.ids, salts, ordered)}


def _receipts(samples: list[str], salts: list[bytes], ordered: list[bytes]) -> list[dict[str, Any] | None]:
    tree = merkle.levels([merkle.leaf_hash(v) for v in ordered])
    place = {value: index for index, value in enumerate(ordered)}
    found: list[dict[str, Any] | None] = []
    for sample in samples:
        salt = next((s for s in salts if merkle.value_of(s, sample) in place), None)
        if salt is None:
            found.append(None)
            continue
        index = place[merkle.value_of(salt, sample)]
        path = tuple(step.hex() for step in merkle.path_in(tree, index))
        found.append(asdict(merkle.Receipt(salt=salt.hex(), index=index, path=path)))
    return found


def _request(session: Session, request_id: str) -> Request:
    request = session.get(Request, request_id)
    if request is None:
        raise not_found("request")
    return request
