"""From an audit's outcome and the record to a signed audit statement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from expunge import audited, dsse, statement
from service import auditing, certificates
from service.home import Home
from service.jobs import Claim
from service.outcomes import Signed
from service.policies import AUDITS
from service.tables import Job, Model, Version
from workers.certify import implementation_digest, inclusion, moment_text

SEED = "0"


def certify_audit(session: Session, home: Home, held: Claim, outcome: Mapping[str, Any], hardware: Mapping[str, Any]) -> Signed:
    """Sign what was measured of a version."""
    job = session.get_one(Job, held.job_id)
    assert job.task is not None
    model = session.get_one(Model, job.model_id)
    version = session.get_one(Version, (model.id, job.task["version"]))
    evidence = [{"name": name, "digest": {"sha256": file["sha256"]}} for name, file in sorted(outcome["evidence"].items())]
    places = {name: hardware[name] for name in ("cpu", "torch", "lapack", "threads")}
    predicate = {
        "kind": "audit",
        "answer": audited.whole(finding["answer"] for finding in outcome["findings"]),
        "issuer": home.signer.issuer,
        "issuedAt": moment_text(job.created_at),
        "jobId": job.id,
        "model": {"name": model.name, "version": version.number, "statement": {"sha256": version.statement}},
        "policy": {"name": AUDITS["name"], "digest": {"sha256": auditing.policy_digest()}, "document": AUDITS},
        "asked": {"audits": job.task["audits"], "attribute": job.task["attribute"], "counts": job.task["counts"]},
        "method": {"implementation": {"digest": {"sha256": implementation_digest()}}, "seed": SEED, "hardware": places},
        "findings": outcome["findings"],
        "limitations": list(audited.LIMITATIONS),
        "evidence": evidence,
    }
    said = statement.statement({name: file["sha256"] for name, file in version.files.items()}, audited.PREDICATE_TYPE, predicate)
    audited.check(said)
    bundle = dsse.seal(said, sign=home.signer.sign, key_id=home.signer.fingerprint, hint=home.signer.fingerprint)
    files = {"audit.sigstore.json": bundle.decode(), "signer.pub": home.signer.public_pem.decode()}
    return Signed(
        certificates.statement_digest(bundle), "audit", files, leaf=certificates.log_leaf(bundle), inclusion=inclusion(home.signer)
    )
