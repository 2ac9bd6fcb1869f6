"""API keys: made, listed, revoked by an administrator."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from sqlalchemy import select

from service import auth, idempotency, locks
from service.db import moment
from service.deps import IdempotencyKey, MayAdmin, OpenHome, tag_of
from service.idempotency import Stored
from service.problem import Problem, not_found
from service.schemas import KeyBody, KeyOut, NewKeyOut
from service.tables import ApiKey

router = APIRouter(tags=["keys"])


@router.post("/keys", status_code=201, response_model=NewKeyOut)
def create(body: KeyBody, home: OpenHome, caller: MayAdmin, key: IdempotencyKey = None) -> Any:
    """Make an API key. The answer holds its only copy; the same `Idempotency-Key` makes no second one, and cannot show the first again."""
    for scope in body.scopes:
        caller.need(scope)  # nobody gives more than they have
    tag = tag_of(home, "POST /keys", body)
    with home.db.write() as session:
        stored = idempotency.recall(session, caller.id, key, tag)
        if stored is not None:
            return stored.body
        made, token = auth.create(session, name=body.name, scopes=list(body.scopes), now=moment(session))
        session.flush()
        shown = KeyOut.model_validate(made).model_dump(mode="json") | {"key": None}
        idempotency.keep(session, caller.id, key, tag, Stored(201, {}, shown), moment(session))
        return shown | {"key": token}


@router.get("/keys", response_model=list[KeyOut])
def list_keys(home: OpenHome, caller: MayAdmin) -> Any:
    """All keys, without their secrets."""
    with home.db.read() as session:
        return list(session.scalars(select(ApiKey).order_by(ApiKey.created_at)))


@router.delete("/keys/{key_id}", status_code=204)
def revoke(key_id: str, home: OpenHome, caller: MayAdmin) -> None:
    """Revoke a key: at once in this process, within a second in every other. The last key with model:admin stays."""
    with home.db.write() as session:
        locks.exclusive(session, "keys")
        key = session.get(ApiKey, key_id)
        if key is None:
            raise not_found("key")
        admins = [k for k in session.scalars(select(ApiKey).where(ApiKey.revoked_at.is_(None))) if "model:admin" in k.scopes]
        if admins == [key]:
            raise Problem(409, "last_key", "This is the last key with model:admin; make another first.")
        key.revoked_at = key.revoked_at or moment(session)
    home.callers.forget(key_id)
