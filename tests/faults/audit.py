"""After the faults: what was accepted and what became of it, read from the record itself and from nothing that the service says."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.orm import Session

from expunge import merkle
from service import erasure
from service.blobs import BlobError, Vault
from service.certificates import statement_digest
from service.db import Database
from service.states import FINAL_JOB, FINAL_REQUEST
from service.tables import Certificate, Event, Job, LogLeaf, Model, Request, Shred, Version


@dataclass
class Found:
    """What an audit counts. All lists are empty when all is well."""

    accepted: int = 0
    lost: list[str] = field(default_factory=list)
    """Accepted, and not final, or failed, or unknown to the record."""
    doubled: list[str] = field(default_factory=list)
    """Jobs with two versions or two ends, requests kept twice, leaves and destructions logged twice."""
    uncertified: list[str] = field(default_factory=list)
    """Versions without a certificate that is theirs, in the log."""
    broken: list[str] = field(default_factory=list)
    """What the record points at and cannot be read, or is destroyed and can; a log that does not add up."""

    @property
    def well(self) -> bool:
        return not (self.lost or self.doubled or self.uncertified or self.broken)

    @property
    def counts(self) -> dict[str, int]:
        return {"accepted": self.accepted, "lost": len(self.lost), "doubled": len(self.doubled), "uncertified": len(self.uncertified)}


def audit(url: str, vault: Vault, accepted: Iterable[str], *, may_fail: Iterable[str] = ()) -> Found:
    """Look the record through.

    Args:
        accepted: ids of requests that were answered 202.
        may_fail: those among them that are to end failed (poison).
    """
    database = Database(url)
    try:
        with database.read() as session:
            found = Found(accepted=len(set(accepted)))
            _requests(session, found, set(accepted), set(may_fail))
            _jobs(session, found)
            _versions(session, found)
            _log(session, found)
            _blobs(session, found, vault)
            return found
    finally:
        database.close()


def _requests(session: Session, found: Found, accepted: set[str], may_fail: set[str]) -> None:
    rows = {r.id: r for r in session.scalars(select(Request))}
    for request in accepted:
        row = rows.get(request)
        wanted = {"failed"} if request in may_fail else {"fulfilled", "partial", "refused", "cancelled"}
        if row is None or row.state not in wanted:
            found.lost.append(f"{request} is {row.state if row else 'unknown'}")
    found.lost += [f"{r.id} is {r.state}" for r in rows.values() if r.state not in FINAL_REQUEST and r.id not in accepted]
    references = Counter(r.reference for r in rows.values() if r.reference)
    found.doubled += [f"{reference} was kept {n} times" for reference, n in references.items() if n > 1]


def _jobs(session: Session, found: Found) -> None:
    ends = Counter(session.scalars(select(Event.job_id).where(Event.kind.in_(FINAL_JOB))))
    for job in session.scalars(select(Job)):
        if job.state not in FINAL_JOB:
            found.lost.append(f"{job.id} is {job.state}")
        elif ends[job.id] != 1:
            found.doubled.append(f"{job.id} ended {ends[job.id]} times")


def _versions(session: Session, found: Found) -> None:
    logged = b"\n".join(session.scalars(select(LogLeaf.leaf)))
    jobs: Counter[str] = Counter()
    for model in session.scalars(select(Model)):
        versions = session.scalars(select(Version).where(Version.model_id == model.id).order_by(Version.number)).all()
        jobs.update(v.job_id for v in versions)
        if [v.number for v in versions] != list(range(1, len(versions) + 1)):
            found.doubled.append(f"versions of {model.name} are {[v.number for v in versions]}")
        if versions and [v.state for v in versions] != ["withdrawn"] * (len(versions) - 1) + ["certified"]:
            found.doubled.append(f"versions of {model.name} are {[v.state for v in versions]}")
        for version in versions:
            certificate = session.get(Certificate, version.statement)
            signed = certificate and statement_digest(certificate.files["certificate.sigstore.json"].encode())
            if signed != version.statement or logged.count(version.statement.encode()) != 1:
                found.uncertified.append(f"{model.name}/{version.number}")
    found.doubled += [f"{job} published {n} versions" for job, n in jobs.items() if n > 1]


def _log(session: Session, found: Found) -> None:
    peaks: list[bytes] = []
    shredded: Counter[str] = Counter()
    for size, leaf in enumerate(session.scalars(select(LogLeaf).order_by(LogLeaf.index))):
        peaks = list(merkle.append(peaks, size, leaf.leaf).peaks)
        if leaf.index != size or [p.hex() for p in peaks] != leaf.peaks:
            found.broken.append(f"leaf {leaf.index} does not follow from those before it")
            break
        said = json.loads(leaf.leaf)
        if said.get("type") == "shredded":
            shredded[said["blob"]] += 1
    found.doubled += [f"{blob} was logged as destroyed {n} times" for blob, n in shredded.items() if n > 1]


def _blobs(session: Session, found: Found, vault: Vault) -> None:
    destroyed = set(session.scalars(select(Shred.blob).where(Shred.done_at.is_not(None))))
    stored = set(vault.ids())
    found.broken += [f"{blob} is destroyed and still there" for blob in destroyed & stored]
    for blob in erasure.referenced(session) - destroyed:
        try:
            vault.stat(blob)
        except BlobError as error:
            found.broken.append(f"the record points at what cannot be read: {error}")
