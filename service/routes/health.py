"""Whether the service lives, whether it can work, and the keys that it signs with."""

from __future__ import annotations

import shutil
import time
from typing import Any

from fastapi import APIRouter, Response
from sqlalchemy import text

from service.deps import OpenHome

router = APIRouter(tags=["health"])

LOW_DISK = 100 << 20
"""Bytes below which a new version may not find room."""


@router.get("/healthz")
def alive() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz")
def ready(home: OpenHome, response: Response) -> dict[str, Any]:
    """Whether requests can be accepted and carried out, and what is wrong if not."""
    wrong = []
    begun = time.perf_counter()
    with home.db.read() as session:
        session.execute(text("SELECT 1"))
    if shutil.disk_usage(home.settings.data_dir).free < LOW_DISK:
        wrong.append("less than 100 MiB are free on the disk of the data directory")
    if wrong:
        response.status_code = 503
    return {"status": "ok" if not wrong else "degraded", "wrong": wrong, "database_ms": round((time.perf_counter() - begun) * 1000, 2)}


@router.get("/.well-known/expunge-keys.json")
def signing_keys(home: OpenHome) -> dict[str, Any]:
    """The public keys that certificates are signed with. Pin the fingerprint by another way than this address."""
    signer = home.signer
    return {
        "keys": [{"fingerprint": signer.fingerprint, "algorithm": "ECDSA P-256 SHA-256", "pem": signer.public_pem.decode(), "active": True}]
    }
