"""Whether the service lives, whether it can work, and what it counts. For machines: no key is asked for, and no name is told."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from service.checks import Readiness
from service.deps import OpenHome
from service.metrics import Metrics

router = APIRouter(tags=["health"])


def _readiness(request: Request) -> Readiness:
    readiness: Readiness = request.app.state.readiness
    return readiness


def _metrics(request: Request) -> Metrics:
    metrics: Metrics = request.app.state.metrics
    return metrics


@router.get("/healthz")
def alive() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz")
def ready(readiness: Annotated[Readiness, Depends(_readiness)], response: Response) -> dict[str, Any]:
    """Whether requests can be accepted and carried out, and what is wrong if not.

    503 while nothing can be accepted. What only keeps accepted work waiting (no worker, no Redis) is told with 200, as `degraded`:
    taking the API out of service would not mend it, and would refuse people who have a right to ask.
    """
    findings = readiness.findings()
    wrong = [finding for finding in findings if finding.wrong]
    if any(finding.blocks for finding in wrong):
        response.status_code = 503
    return {
        "status": "ok" if not wrong else "degraded" if response.status_code != 503 else "unavailable",
        "wrong": [finding.wrong for finding in wrong],
        "checks": {finding.name: finding.wrong or finding.found for finding in findings},
    }


@router.get("/metrics", response_class=Response, responses={200: {"content": {CONTENT_TYPE_LATEST: {}}}})
def metrics(metrics: Annotated[Metrics, Depends(_metrics)]) -> Response:
    """Counts and ages in Prometheus' text format, computed from the record: every API process tells the same."""
    return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/.well-known/expunge-keys.json")
def signing_keys(home: OpenHome) -> dict[str, Any]:
    """The public keys that certificates are signed with. Pin the fingerprint by another way than this address."""
    signer = home.signer
    return {
        "keys": [{"fingerprint": signer.fingerprint, "algorithm": "ECDSA P-256 SHA-256", "pem": signer.public_pem.decode(), "active": True}]
    }
