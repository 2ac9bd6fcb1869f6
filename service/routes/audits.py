"""POST /models/{name}/versions/{version}/audit: measure a version without forgetting anything."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from service import auditing, idempotency
from service.auditing import AuditBody
from service.db import moment
from service.deps import IdempotencyKey, MayAdmin, OpenHome, model_named, tag_of, version_named
from service.idempotency import Stored
from service.routes.jobs import shown
from service.schemas import JobOut

router = APIRouter(tags=["audits"])


@router.post("/models/{name}/versions/{version}/audit", status_code=202, response_model=JobOut)
def audit(
    name: str, version: str, body: AuditBody, home: OpenHome, caller: MayAdmin, response: Response, key: IdempotencyKey = None
) -> Any:
    """Audit a certified version. The job ends with a signed audit statement and its evidence: what was measured, never a guarantee.

    `GET /jobs/{id}/certificate` is the statement, `GET /jobs/{id}/evidence` a zip of it with numbers and pictures.
    """
    tag = tag_of(home, f"POST /models/{name}/versions/{version}/audit", body)
    with home.db.write() as session:
        stored = idempotency.recall(session, caller.id, key, tag)
        if stored is None:
            model = model_named(session, name)
            job = auditing.submit(session, model, version_named(session, model, version), body, queue=home.settings.training_queue)
            headers = {"Location": f"/jobs/{job.id}", "Retry-After": "1"}
            stored = Stored(202, headers, shown(session, job.id).model_dump(mode="json"))
            idempotency.keep(session, caller.id, key, tag, stored, moment(session))
    home.wake.set()
    response.headers.update(stored.headers)
    return stored.body
