"""Versions: immutable, downloadable while certified, gone once withdrawn; their certificates stay."""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy import select
from sqlalchemy.orm import Session

from service import outcomes, ranges
from service.deps import MayDownload, MayRead, OpenHome, model_named, version_named
from service.problem import Problem, not_found
from service.schemas import FileOut, Page, VersionOut
from service.tables import Certificate, Model, Version

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
    """Everything about a version but its weights, as a zip: what a regulator needs."""
    with home.db.read() as session:
        found = version_named(session, model_named(session, name), version)
        documents = {n: t.encode() for n, t in _certificate(session, found).files.items()}
        blobs = {n: f["blob"] for n, f in found.files.items() if n in ("model.json", "policy.json")}
    documents |= {n: home.vault.read(b) for n, b in blobs.items()} if found.state == "certified" else {}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, data in sorted(documents.items()):
            archive.writestr(zipfile.ZipInfo(entry), data)
    return Response(
        packed.getvalue(),
        media_type="application/zip",
        headers={"Content-Disposition": f'attachment; filename="{name}-{found.number}-evidence.zip"'},
    )


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
        entry = found.files[file]
    etag = f'"{entry["sha256"]}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(entry['sha256'])).decode()}:",
    }
    if ranges.unchanged(request.headers, etag):
        return Response(status_code=304, headers=headers)
    part = ranges.asked(request.headers, entry["size"], etag) if request.method == "GET" else None
    start, stop = part or (0, entry["size"])
    if part:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{entry['size']}"
    headers["Content-Length"] = str(stop - start)
    body: Iterator[bytes] = iter(()) if request.method == "HEAD" else home.vault.stream(entry["blob"], start, stop)
    return StreamingResponse(body, 206 if part else 200, headers=headers, media_type="application/octet-stream")


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
        files=files if version.state == "certified" else [],
        certificate=f"{base}/certificate",
    )
