"""Is this audit statement what its issuer signed? Six numbered steps over an unpacked evidence directory, offline."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from expunge import audited, canonical, statement
from expunge.verify import (
    AGAIN,
    Evidence,
    Failed,
    Report,
    check_inclusion,
    check_signature,
    plain_files,
    run_steps,
)

STATEMENT = "audit.sigstore.json"
PROOFS = (STATEMENT, "inclusion.json", "signer.pub")
STEPS = (
    "files present and nothing unexpected",
    "signature",
    "statement well formed",
    "answers follow from the numbers",
    "digests of the evidence",
    "inclusion in the log",
)


def is_audit(directory: Path) -> bool:
    """Whether a directory holds an audit's evidence, and not a version."""
    return (directory / STATEMENT).is_file()


def verify(directory: Path, *, key: Path | None = None, fingerprint: str | None = None) -> Report:
    """Check an audit's unpacked evidence without any service.

    Args:
        directory: what `GET /jobs/{id}/evidence` packed.
        key, fingerprint: as for a version.
    """
    evidence = Evidence(Path(directory), key, fingerprint, file=STATEMENT)
    steps: tuple[Callable[[Evidence], tuple[str, ...]], ...] = (_files, check_signature, _statement, _answers, _digests, check_inclusion)
    return run_steps(evidence, tuple(zip(STEPS, steps, strict=True)))


def _files(evidence: Evidence) -> tuple[str, ...]:
    return (f"{len(plain_files(evidence, PROOFS))} files",)


def _statement(evidence: Evidence) -> tuple[str, ...]:
    try:
        evidence.certificate = value = canonical.loads(evidence.payload)
        audited.check(value)
    except (canonical.NotCanonical, statement.BadStatement) as reason:
        raise Failed(str(reason), "Try a newer `expunge`; if it fails there too, tell the issuer that the statement is broken.") from None
    said = value["predicate"]
    return (f"audit of {said['model']['name']!r}, version {said['model']['version']}, issued {said['issuedAt']} by {said['issuer']}",)


def _answers(evidence: Evidence) -> tuple[str, ...]:
    said = evidence.said["predicate"]
    return (f"{len(said['findings'])} findings by {said['policy']['name']}: {said['answer']}. {audited.LIMITATIONS[0]}",)


def _digests(evidence: Evidence) -> tuple[str, ...]:
    named = {entry["name"]: entry["digest"]["sha256"] for entry in evidence.said["predicate"]["evidence"]}
    spare = sorted({entry.name for entry in evidence.directory.iterdir()} - set(named) - set(PROOFS))
    if spare:
        raise Failed(f"unexpected: {', '.join(map(repr, spare))}", "Move them elsewhere: the statement says nothing about them.")
    gone = []
    for name, digest in named.items():
        path = evidence.directory / name
        if not path.exists() and name.endswith(".png"):
            gone.append(name)
            continue
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as reason:
            raise Failed(f"{name} cannot be read ({reason.strerror})", AGAIN) from None
        if found != digest:
            raise Failed(f"{name} has the sha256 {found}, the statement says {digest}", AGAIN)
    told = f"; destroyed since, as pictures are when something is forgotten: {', '.join(gone)}" if gone else ""
    return (f"{len(named) - len(gone)} files have the digests that were signed{told}",)
