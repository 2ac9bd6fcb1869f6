"""Pictures of samples in evidence: taken out as soon as one of the samples may have been forgotten."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from service import jobs
from service.tables import Job


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
