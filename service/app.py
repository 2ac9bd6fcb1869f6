"""The HTTP application over an open home. Importing it loads neither torch nor `models` nor `workers`."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

from fastapi import FastAPI

from service import errors
from service.checks import Readiness
from service.home import Home
from service.limits import DeclaredLength
from service.metrics import Metrics
from service.routes import audits, datasets, forget, health, jobs, keys, log, models, policies, versions

MAX_JSON = 64 << 20
"""Bytes of a JSON body: a million ids fit."""


UPLOADS = re.compile(r"/datasets|/models/[^/]+/core")
"""Where bodies are streamed, and counted against a limit of their own."""


def create_app(home: Home) -> FastAPI:
    app = FastAPI(title="Expunge", version=_version(), summary="Forget samples, with proof.", docs_url=None, redoc_url=None)
    app.state.home = home
    app.state.readiness = Readiness(home.settings, home.db, home.vault)
    app.state.metrics = Metrics(home.db)
    app.add_middleware(DeclaredLength, limit=MAX_JSON, except_for=UPLOADS)
    errors.install(app)
    for part in (forget, jobs, audits, datasets, models, versions, policies, keys, log, health):
        app.include_router(part.router, max_body_size=None if part is datasets else MAX_JSON)
    app.include_router(models.uploads_router)
    return app


def _version() -> str:
    try:
        return version("expunge")
    except PackageNotFoundError:
        return "0"
