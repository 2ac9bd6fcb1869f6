"""Facts become signed files: statement, canonical JSON, DSSE, bundle. No clock and no database, so signing again gives the same bytes."""

import base64
import hashlib
import os
import stat
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from expunge import canonical, checkpoint, dsse, signature, statement
from service.facts import Accuracy, Attribute, Cell, Facts, Finding, Model, Policy, Proved, Request, Utility


@dataclass(frozen=True)
class Signer:
    """A P-256 key that signs, and the names by which others know it."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def public(self) -> ec.EllipticCurvePublicKey:
        return self.key.public_key()

    @property
    def public_pem(self) -> bytes:
        return signature.pem(self.public)

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of the public key's SubjectPublicKeyInfo in DER."""
        return signature.fingerprint(self.public)

    @property
    def key_id(self) -> bytes:
        """The four bytes that name the key in a checkpoint."""
        return checkpoint.key_id(self.public)

    @property
    def issuer(self) -> str:
        """A URI for an issuer that has no better name than its key."""
        return f"urn:expunge:key:{self.fingerprint}"

    def sign(self, message: bytes) -> bytes:
        """Sign; the same message gives the same bytes."""
        return signature.sign(message, self.key)


class BadSigningKey(ValueError):
    """The signing key's file cannot be used."""


def load_signer(path: Path) -> Signer:
    """Read the signing key, or make one that only its owner can read.

    Two processes that start together end up with the same key: the file appears complete, and only if none is there.

    Raises:
        BadSigningKey: not an unencrypted P-256 private key, or others than its owner can read or change it.
    """
    if not path.exists():
        _create(path)
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise BadSigningKey(f"{path} can be read or changed by others than its owner: chmod 600 it")
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError):
        raise BadSigningKey(f"{path} is not an unencrypted private key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BadSigningKey(f"{path} is not a P-256 key")
    return Signer(key)


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    data = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    # mkstemp makes the file 0600 from the start; link refuses to replace a key that appeared meanwhile.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".signing-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(name, path)
    except FileExistsError:
        return
    finally:
        os.unlink(name)


def policy_file(policy: Policy) -> bytes:
    """Write policy.json."""
    rules: dict[str, Any] = {
        "name": policy.name,
        "guarantee": {"anyOf": list(policy.guarantees), "muMax": policy.mu_max},
        "audits": list(policy.audits),
    }
    if policy.thresholds:
        rules["thresholds"] = [asdict(threshold) for threshold in policy.thresholds]
    return canonical.dumps(rules)


def policy_digest(policy: Policy) -> str:
    """sha256 (hex) of policy.json."""
    return hashlib.sha256(policy_file(policy)).hexdigest()


def model_file(architecture: Mapping[str, Any], classes: Sequence[str], linearize: str | Sequence[str] | None = None) -> bytes:
    """Write model.json: what is needed, beside the two weight files, to run the model.

    Args:
        architecture: as `models.nets` takes it; JSON values only.
        classes: the declared labels, in the order of the weights' columns.
        linearize: `all` or names of layers, of a linearised model; else there is no such field.
    """
    linearised = {} if linearize is None else {"linearize": linearize if isinstance(linearize, str) else list(linearize)}
    return canonical.dumps({"architecture": dict(architecture), "classes": list(classes)} | linearised)


def statement_of(facts: Facts, files: Mapping[str, str]) -> dict[str, Any]:
    """Say the facts over files given by sha256 (hex).

    Raises:
        ValueError: facts and files contradict each other.
        BadStatement: a fact does not have the form that CERTIFICATE.md gives it.
    """
    said = statement.statement(files, statement.PREDICATE_TYPE, _predicate(facts))
    if files.get("policy.json") != policy_digest(facts.policy):
        raise ValueError("policy.json is not the file of the policy that the facts name")
    if "core.safetensors" in files and files["core.safetensors"] != facts.model.core:
        raise ValueError("core.safetensors is not the core that the facts name")
    if any(files.get("user.safetensors") != proved.value.get("weights") for proved in facts.guarantees):
        raise ValueError("user.safetensors is not the file whose weights are proved")
    statement.check(said)
    return said


def version_bundle(facts: Facts, files: Mapping[str, str], signer: Signer) -> dict[str, bytes]:
    """Certify a version: certificate.sigstore.json, svr.sigstore.json, model.sig and signer.pub.

    Args:
        facts: what happened.
        files: sha256 (hex) of core.safetensors, model.json, policy.json and user.safetensors.
        signer: signs all three.

    Raises:
        ValueError: as `statement_of`; or nothing is proved that the policy asks for.
    """
    said = statement_of(facts, files)
    needless = facts.request is None and statement.fit_needs_no_guarantee(facts.policy.mu_max)
    if facts.refusal is not None or not (needless or any(proved.name in facts.policy.guarantees for proved in facts.guarantees)):
        raise ValueError("a version needs a guarantee that its policy accepts")
    return {
        "certificate.sigstore.json": _seal(said, signer, signer.fingerprint),
        "svr.sigstore.json": _seal(statement.svr_of(said), signer, signer.fingerprint),
        # model_signing compares the hint with the sha256 of the PEM, not of the DER.
        "model.sig": _seal(statement.model_signature_of(said), signer, hashlib.sha256(signer.public_pem).hexdigest()),
        "signer.pub": signer.public_pem,
    }


def refusal_bundle(facts: Facts, signer: Signer) -> bytes:
    """Certify that nothing was published, and why. The only subject is policy.json: there are no other files.

    Raises:
        ValueError: as `statement_of`; or the facts hold no refusal.
    """
    if facts.refusal is None:
        raise ValueError("a refusal needs its reason")
    files = {"policy.json": policy_digest(facts.policy)}
    return _seal(statement_of(facts, files), signer, signer.fingerprint)


def statement_digest(certificate: bytes) -> str:
    """Give the version's name by digest: sha256 (hex) of the statement inside certificate.sigstore.json."""
    return hashlib.sha256(dsse.read(certificate).payload).hexdigest()


def log_leaf(certificate: bytes) -> bytes:
    """Give the bytes that the transparency log hashes as a certificate's leaf: canonical JSON with the statement's sha256."""
    return canonical.dumps(statement.log_leaf_of(dsse.read(certificate).payload))


def inclusion_file(leaf: bytes, *, index: int, size: int, path: Sequence[bytes], checkpoint: str) -> bytes:
    """Write inclusion.json.

    Args:
        leaf: from `log_leaf`.
        index: the leaf's place in the log, from 0.
        size: leaves in the log that the checkpoint signs.
        path: sibling hashes from the leaf upwards.
        checkpoint: the signed note, by the key that signed the certificate.
    """
    steps = [base64.b64encode(step).decode("ascii") for step in path]
    return canonical.dumps({"index": index, "size": size, "leaf": canonical.loads(leaf), "path": steps, "checkpoint": checkpoint})


def _seal(said: Any, signer: Signer, hint: str) -> bytes:
    return dsse.seal(said, sign=signer.sign, key_id=signer.fingerprint, hint=hint)


def _predicate(facts: Facts) -> dict[str, Any]:
    kind = "refusal" if facts.refusal else "forget" if facts.request else "fit"
    counts = dict.fromkeys(statement.DISPOSITIONS, 0) | dict(facts.dispositions or {})
    removed = {"attributes": [_attribute(attribute) for attribute in facts.attributes]} if facts.attributes else {}
    left = {"evidence": [{"name": name, "digest": _sha256(digest)} for name, digest in sorted((facts.evidence or {}).items())]}
    return removed | (left if facts.evidence else {}) | {
        "verdict": "REFUSED" if facts.refusal else "PASSED",
        "kind": kind,
        "issuer": facts.issuer,
        "issuedAt": facts.issued_at,
        "jobId": facts.job_id,
        "policy": {"name": facts.policy.name, "digest": _sha256(policy_digest(facts.policy))},
        "request": None if facts.request is None else _request(facts.request),
        "dispositions": counts,
        "emptiedClasses": list(facts.emptied_classes),
        "model": _model(facts.model),
        "method": _method(facts),
        "guarantee": [_proved(proved) for proved in facts.guarantees],
        "findings": [_finding(finding) for finding in facts.findings],
        "utility": [_utility(row) for row in facts.utility],
        "assumptions": list(facts.assumptions),
        "limitations": list(facts.limitations),
        "reproduce": {"command": facts.reproduce.command, "dataset": {"digest": _sha256(facts.reproduce.dataset)}},
        "stillInForce": [_sha256(digest) for digest in facts.still_in_force],
        "refusal": None if facts.refusal is None else {"code": facts.refusal.code, "detail": facts.refusal.detail},
    }


def _sha256(digest: str) -> dict[str, str]:
    return {"sha256": digest}


def _request(request: Request) -> dict[str, Any]:
    return {
        "ids": list(request.ids),
        "kind": request.kind,
        "reasons": list(request.reasons),
        "receivedAt": request.received_at,
        "dueAt": request.due_at,
        "forgetSet": {"count": request.count, "commitment": request.commitment},
        "adaptive": request.adaptive,
    }


def _model(model: Model) -> dict[str, Any]:
    parent = model.parent
    return {
        "name": model.name,
        "architecture": {"id": model.architecture, "digest": _sha256(model.architecture_digest)},
        "core": {"digest": _sha256(model.core)},
        "parent": None if parent is None else {"digest": _sha256(parent.digest), "disposition": parent.disposition},
        "auxiliaryState": [{"what": state.what, "disposition": state.disposition} for state in model.auxiliary_state],
    }


def _method(facts: Facts) -> dict[str, Any]:
    method, hardware = facts.method, facts.method.hardware
    return {
        "name": method.name,
        "solver": method.solver,
        "implementation": {"digest": _sha256(method.implementation)},
        "hyperparameters": dict(method.hyperparameters),
        "seed": method.seed,
        "deterministic": method.deterministic,
        "hardware": {"cpu": hardware.cpu, "torch": hardware.torch, "lapack": hardware.lapack, "threads": hardware.threads},
    }


def _proved(proved: Proved) -> dict[str, Any]:
    if not isinstance(proved, Proved):
        raise TypeError(f"{type(proved).__name__} is not proved")
    value = {name: _sha256(said) if name in statement.PROVED_DIGESTS else said for name, said in proved.value.items()}
    return {"name": proved.name, "value": value, "theorem": proved.theorem, "assumptions": list(proved.assumptions)}


def _finding(finding: Finding) -> dict[str, Any]:
    if not isinstance(finding, Finding):
        raise TypeError(f"{type(finding).__name__} is not measured")
    about = {} if finding.attribute is None else {"attribute": finding.attribute, "measuredIn": _maybe_sha256(finding.measured_in)}
    return about | {
        "audit": finding.audit,
        "access": finding.access,
        "metric": finding.metric,
        "value": finding.value,
        "ci95": list(finding.ci95),
        "n": finding.n,
        "threshold": finding.threshold,
        "passed": finding.passed,
        "power": {"planted": finding.planted, "caught": finding.caught},
        "reference": finding.reference,
    }


def _attribute(attribute: Attribute) -> dict[str, Any]:
    figures = [{"name": f.name, "value": f.value, "low": f.low, "high": f.high, "access": f.access} for f in attribute.figures]
    return {
        "name": attribute.name,
        "values": attribute.values,
        "data": attribute.data,
        "claim": attribute.claim,
        "method": attribute.method,
        "scope": attribute.scope,
        "parameters": dict(attribute.parameters),
        "figures": figures,
        "removedIn": _maybe_sha256(attribute.removed_in),
    }


def _maybe_sha256(digest: str | None) -> dict[str, str] | None:
    return None if digest is None else _sha256(digest)


def _utility(row: Utility) -> dict[str, Any]:
    cells = {"before": _cell(row.before), "after": _cell(row.after), "retrained": _cell(row.retrained)}
    return {"metric": row.metric, "split": row.split, **cells}


def _cell(cell: Cell) -> Any:
    if not isinstance(cell, Accuracy):
        return cell
    if cell.n < statement.FEWEST_ROWS:
        raise ValueError(f"an accuracy over fewer than {statement.FEWEST_ROWS} rows is withheld")
    return {"correct": cell.correct, "n": cell.n, "accuracy": statement.accuracy(cell.correct, cell.n), "ci95": list(cell.ci95)}
