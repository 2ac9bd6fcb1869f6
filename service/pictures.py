"""Pictures of samples in evidence: taken out as soon as one of the samples may have been forgotten.

Pictures of what a job itself has forgotten stay as long as the version that still knew it: they go with its weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service import jobs
from service.tables import Job

FORGOTTEN = "pictures of forgotten samples in evidence"
"""What a shred is called whose blob is still named by the evidence of its job."""


def blobs(evidence: Mapping[str, Any] | None) -> list[str]:
    """The blobs of evidence that show samples."""
    return [file["blob"] for file in (evidence or {}).values() if file.get("picture")]


def let_go(session: Session, going: Iterable[tuple[str, str | None]]) -> None:
    """Take pictures of forgotten samples that are about to be destroyed out of the evidence of their jobs.

    Args:
        going: a blob and its job, each.
    """
    named = dict(going)
    gone = set(named)
    for job_id in sorted({job_id for job_id in named.values() if job_id}):
        evidence = session.get_one(Job, job_id).evidence or {}
        jobs.leave_evidence(session, job_id, {name: file for name, file in evidence.items() if file["blob"] not in gone})


def take_out(session: Session, model_id: str) -> list[str]:
    """Take the pictures out of the evidence of a model's jobs. Returns their blobs, for the caller to have destroyed."""
    gone: list[str] = []
    kept = select(Job.id, Job.evidence).where(Job.model_id == model_id, Job.evidence.is_not(None))
    for job_id, evidence in session.execute(kept).all():
        pictures = {name: file["blob"] for name, file in evidence.items() if file.get("picture")}
        if pictures:
            jobs.leave_evidence(session, job_id, {name: file for name, file in evidence.items() if name not in pictures})
            gone += pictures.values()
    return gone
