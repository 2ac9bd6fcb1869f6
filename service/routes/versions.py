"""Versions: immutable, downloadable while certified, gone once withdrawn; their certificates stay."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from service import downloads, outcomes
from service.deps import MayAdmin, MayDownload, MayRead, OpenHome, model_named, version_named
from service.evidence import listed, packed, read
from service.problem import Problem, not_found
from service.schemas import FileOut, Page, VersionOut
from service.tables import Certificate, Job, Model, Version

router = APIRouter(tags=["versions"])


@router.get("/models/{name}/versions", response_model=Page)
def list_versions(name: str, home: OpenHome, caller: MayRead) -> Any:
    """All versions of a model, newest first."""
    with home.db.read() as session:
        model = model_named(session, name)
        rows = session.scalars(select(Version).where(Version.model_id == model.id).order_by(Version.number.desc()))
        return {"items": [shown(session, model, v) for v in rows], "next": None}


@router.get("/models/{name}/versions/{version}", response_model=VersionOut)
def get_version(name: str, version: str, home: OpenHome, caller: MayRead) -> Any:
    """A version by number, by sha256 of its statement, or `@latest-certified`."""
    with home.db.read() as session:
        model = model_named(session, name)
        return shown(session, model, version_named(session, model, version))


@router.get("/models/{name}/versions/{version}/certificate")
def certificate(name: str, version: str, home: OpenHome, caller: MayRead) -> Response:
    """The certificate: a Sigstore bundle. It stays after the version is withdrawn."""
    with home.db.read() as session:
        found = _certificate(session, version_named(session, model_named(session, name), version))
        return Response(
            found.files["certificate.sigstore.json"],
            media_type="application/vnd.dev.sigstore.bundle.v0.3+json",
            headers={"ETag": f'"{found.statement}"'},
        )


@router.get("/models/{name}/versions/{version}/evidence")
def evidence(name: str, version: str, home: OpenHome, caller: MayRead) -> Response:
    """Everything about a version but its weights, as a zip: what a regulator needs. Of a version from which an attribute was removed
    also the trade-off curve.
    """
    with home.db.read() as session:
        found = version_named(session, model_named(session, name), version)
        documents = {n: t.encode() for n, t in _certificate(session, found).files.items()}
        forms = {n: f for n, f in found.files.items() if n in ("model.json", "policy.json")} if found.state == "certified" else {}
        files = dict(session.get_one(Job, found.job_id).evidence or {})
    return packed(documents | read(home, forms | files), name=f"{name}-{found.number}")


@router.api_route("/models/{name}/versions/{version}/files/{file}", methods=["GET", "HEAD"], response_class=Response)
def download(name: str, version: str, file: str, request: Request, home: OpenHome, caller: MayDownload) -> Response:
    """One file of a version. ETag is its sha256; Range and If-None-Match are honoured; 410 once the version is withdrawn."""
    with home.db.read() as session:
        model = model_named(session, name)
        found = version_named(session, model, version)
        documents = _certificate(session, found).files
        if file in documents:
            return Response(documents[file], media_type="application/octet-stream")
        if file not in found.files:
            raise not_found("file")
        if found.state == "withdrawn":
            _gone(session, model, file)
        blob = found.files[file]["blob"]
    return downloads.answer(request, home.vault, blob, cache="private, no-cache")


@router.get(
    "/models/{name}/statistics",
    response_class=Response,
    responses={
        200: {
            "description": "safetensors: `A` [d, d] int64, `B` [d, C] int64, `rows` int64, the number of user samples in them.",
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        },
        403: {"description": "The key lacks the scope `model:admin`."},
        404: {"description": "There is no such model, or no version of it yet."},
        410: {"description": "The sums were destroyed in this moment, because something was forgotten. Ask again for those that follow."},
    },
)
def statistics(name: str, request: Request, home: OpenHome, caller: MayAdmin) -> Response:
    """The sums (A, B) that the latest certified version is solved from, for auditors. They are user data: every forgetting destroys them.

    The certificate has their digest. ETag is the file's sha256; Range and If-None-Match are honoured.
    """
    with home.db.read() as session:
        blobs = model_named(session, name).state_blobs
    if blobs is None:
        raise not_found("version")
    if "statistics" not in blobs:
        raise Problem(404, "statistics_not_found", "The model is linearised: its weights follow from no sums.")
    return downloads.answer(request, home.vault, blobs["statistics"], cache="private, no-store")


@router.get("/models/{name}/versions/{version}/solver")
def solver(name: str, version: str, home: OpenHome, caller: MayAdmin) -> dict[str, Any]:
    """How a linearised version was solved, for auditors: `method`, `reached`, `target`, `error` and `residual` before the noise, `passes`,
    `seconds`, `history`. It depends on what was forgotten, so it is in no certificate.
    """
    with home.db.read() as session:
        found = version_named(session, model_named(session, name), version).facts.get("solver")
    if found is None:
        raise not_found("solver_record")
    return dict(found)


def _gone(session: Session, model: Model, file: str) -> None:
    latest = outcomes.latest(session, model.id)
    assert latest is not None
    address = f"/models/{model.name}/versions/{latest.number}"
    raise Problem(
        410,
        "version_withdrawn",
        f"This version is withdrawn: something was forgotten since. Its successor is version {latest.number}.",
        extra={"successor": address},
        headers={"Link": f'<{address}/files/{file}>; rel="successor-version"'},
    )


def _certificate(session: Session, version: Version) -> Certificate:
    found = session.get(Certificate, version.statement)
    assert found is not None  # a foreign key, written in the version's own transaction
    return found


def shown(session: Session, model: Model, version: Version) -> VersionOut:
    base = f"/models/{model.name}/versions/{version.number}"
    latest = outcomes.latest(session, model.id)
    files = [FileOut(name=n, sha256=f["sha256"], size=f["size"], url=f"{base}/files/{n}") for n, f in sorted(version.files.items())]
    successor = f"/models/{model.name}/versions/{latest.number}" if version.state == "withdrawn" and latest else None
    return VersionOut(
        model=model.name,
        number=version.number,
        digest=version.statement,
        state=version.state,
        job=version.job_id,
        created_at=version.created_at,
        withdrawn_at=version.withdrawn_at,
        successor=successor,
        method=version.facts["method"],
        utility=version.facts["utility"],
        removed=version.facts.get("removed", []),
        evidence=listed(version.job_id, session.get_one(Job, version.job_id).evidence),
        files=files if version.state == "certified" else [],
        certificate=f"{base}/certificate",
    )
