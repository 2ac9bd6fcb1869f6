"""What endpoints ask for: the open home, the caller, the idempotency key, and how to look a record up."""

from __future__ import annotations

import hashlib
import hmac
import time
from typing import Annotated

from fastapi import Depends, Header, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session

from service import auth
from service.auth import Caller
from service.home import Home
from service.problem import not_found
from service.tables import Dataset, Job, Model, Version

# Coroutines, because what waits for nothing needs no thread of its own: each hop to one costs as much as a query.


async def _home(request: Request) -> Home:
    home: Home = request.app.state.home
    return home


OpenHome = Annotated[Home, Depends(_home)]


class Needs(SecurityBase):
    """A dependency: the caller, who must have a scope. One step, not a tree of them: each node costs as much as the look itself."""

    model = HTTPBearer()
    scheme_name = "API key"

    def __init__(self, scope: auth.Scope) -> None:
        self._scope = scope

    async def __call__(self, request: Request) -> Caller:
        home, authorization = await _home(request), request.headers.get("authorization")
        known = home.callers.known(authorization)
        caller = known if known is not None else await run_in_threadpool(_let_in, home, authorization)
        caller.need(self._scope)
        return caller


def _let_in(home: Home, authorization: str | None) -> Caller:
    since = time.monotonic()
    with home.db.glance() as session:
        caller = auth.authenticate(session, authorization)
    home.callers.remember(authorization, caller, since)
    return caller


IdempotencyKey = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$")]


MayForget = Annotated[Caller, Depends(Needs("forget:create"))]
MayReadRequests = Annotated[Caller, Depends(Needs("forget:read"))]
MayRead = Annotated[Caller, Depends(Needs("model:read"))]
MayDownload = Annotated[Caller, Depends(Needs("model:download"))]
MayAdmin = Annotated[Caller, Depends(Needs("model:admin"))]


def tag_of(home: Home, route: str, body: BaseModel | str) -> str:
    """A keyed hash of what was sent to a route: tells equal bodies without keeping them."""
    text = body if isinstance(body, str) else body.model_dump_json()
    return hmac.digest(home.secret, f"{route}\n{text}".encode(), hashlib.sha256).hex()


def model_named(session: Session, name: str) -> Model:
    model = session.scalars(select(Model).where(Model.name == name)).first()
    if model is None:
        raise not_found("model")
    return model


def dataset_named(session: Session, name: str) -> Dataset:
    """A data set by name or id."""
    dataset = session.scalars(select(Dataset).where((Dataset.name == name) | (Dataset.id == name))).first()
    if dataset is None:
        raise not_found("dataset")
    return dataset


def version_named(session: Session, model: Model, name: str) -> Version:
    """A version by number, by the sha256 of its statement, or `@latest-certified`."""
    versions = select(Version).where(Version.model_id == model.id)
    if name == "@latest-certified":
        found = session.scalars(versions.where(Version.state == "certified").order_by(Version.number.desc())).first()
    elif name.isascii() and name.isdigit() and len(name) < 10:
        found = session.get(Version, (model.id, int(name)))
    else:
        found = session.scalars(versions.where(Version.statement == name)).first()
    if found is None:
        raise not_found("version")
    return found


def job_with(session: Session, job_id: str) -> Job:
    job = session.get(Job, job_id)
    if job is None:
        raise not_found("job")
    return job
