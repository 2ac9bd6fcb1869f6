"""Is this version what its certificate says? Seven numbered steps over a directory, offline, the first failure named."""

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from expunge import canonical, checkpoint, dsse, gaussian, merkle, signature, statement, tensors

FILES = tuple(sorted((*statement.SUBJECT_FILES, *statement.PROOF_FILES)))
"""What a downloaded version consists of: these files and no other."""

STEPS = (
    "files present and nothing unexpected",
    "signature",
    "statement well formed",
    "digests of every file",
    "inclusion in the log",
    "policy",
    "short statements agree",
)

# Certificates are some kilobytes; far larger ones are hostile, and are not read into memory.
_LARGEST_PROOF = 16 << 20


@dataclass(frozen=True)
class Step:
    """One step's answer."""

    number: int
    name: str
    passed: bool | None
    """None: not reached, because an earlier step failed."""
    detail: str
    """What was found, in plain words."""
    advice: str = ""
    """What to do next; empty unless the step failed or the signer is unknown."""


@dataclass(frozen=True)
class Report:
    """What verification found."""

    steps: tuple[Step, ...]
    signer: str | None
    """Fingerprint of the key that signed; None where step 2 was not passed."""
    signer_known: bool
    """Whether the caller named the key, by file or by fingerprint."""
    certificate: dict[str, Any] | None = field(repr=False)
    """The statement, once steps 2 and 3 were passed."""

    @property
    def failed(self) -> Step | None:
        """The first step that failed."""
        return next((step for step in self.steps if step.passed is False), None)

    @property
    def ok(self) -> bool:
        """Every step passed, and the signer is the one asked for."""
        return self.exit_code == 0

    @property
    def exit_code(self) -> int:
        """0 verified, 1 a step failed, 2 consistent but signed by a key that nobody vouched for."""
        if not all(step.passed for step in self.steps):
            return 1
        return 0 if self.signer_known else 2


class Failed(Exception):
    """A step says no."""

    def __init__(self, detail: str, advice: str) -> None:
        super().__init__(detail)
        self.detail, self.advice = detail, advice


@dataclass
class Evidence:
    """What the steps have established so far; each step adds to it and trusts only what an earlier one put there."""

    directory: Path
    key_file: Path | None
    fingerprint: str | None
    key: ec.EllipticCurvePublicKey | None = None
    payload: bytes = b""
    file: str = "certificate.sigstore.json"
    """The signed statement's."""
    certificate: dict[str, Any] | None = None

    def read(self, name: str) -> bytes:
        path = self.directory / name
        try:
            if path.stat().st_size > _LARGEST_PROOF:
                raise Failed(f"{name} is larger than any such file should be", "Download the version again.")
            return path.read_bytes()
        except OSError as reason:
            raise Failed(f"{name} cannot be read ({reason.strerror})", "Check the directory's permissions.") from None

    @property
    def signer(self) -> ec.EllipticCurvePublicKey:
        assert self.key is not None
        return self.key

    @property
    def said(self) -> dict[str, Any]:
        assert self.certificate is not None
        return self.certificate


AGAIN = "Download the version again; if it fails again, do not use it and tell the issuer."
_DO_NOT_USE = "Do not use this version. Tell the issuer: the certificate contradicts itself."


def verify(directory: Path, *, key: Path | None = None, fingerprint: str | None = None) -> Report:
    """Check a downloaded version without any service.

    Args:
        directory: holds the nine files of `FILES`.
        key: the issuer's public key (PEM), from somewhere other than this directory.
        fingerprint: sha256 (hex) of that key's SubjectPublicKeyInfo in DER; without `key` and `fingerprint` the directory's own
            signer.pub is used, which shows only that one and the same key signed everything.
    """
    run = (_files, check_signature, _statement, _digests, check_inclusion, _policy, _agreement)
    return run_steps(Evidence(Path(directory), key, fingerprint), tuple(zip(STEPS, run, strict=True)))


def run_steps(evidence: Evidence, run: Sequence[tuple[str, Callable[[Evidence], tuple[str, ...]]]]) -> Report:
    """Take steps in order up to the first that fails; the second is the signature, the third the statement."""
    steps: list[Step] = []
    for number, (name, step) in enumerate(run, start=1):
        if steps and not steps[-1].passed:
            steps.append(Step(number, name, None, "not reached"))
            continue
        try:
            steps.append(Step(number, name, True, *step(evidence)))
        except Failed as reason:
            steps.append(Step(number, name, False, reason.detail, reason.advice))
    signed, formed = bool(steps[1].passed), bool(steps[2].passed)
    return Report(
        steps=tuple(steps),
        signer=signature.fingerprint(evidence.signer) if signed else None,
        signer_known=signed and (evidence.key_file is not None or evidence.fingerprint is not None),
        certificate=evidence.certificate if formed else None,
    )


def plain_files(evidence: Evidence, needed: Sequence[str]) -> list[str]:
    """Names of what the directory holds: all that is needed, and nothing but plain files."""
    try:
        found = {entry.name: entry.is_file() and not entry.is_symlink() for entry in evidence.directory.iterdir()}
    except OSError as reason:
        raise Failed(f"the directory cannot be read ({reason.strerror})", "Give the one that was downloaded or unpacked.") from None
    missing = [name for name in needed if name not in found]
    if missing:
        raise Failed(f"missing: {', '.join(missing)}", f"Download again: all {len(needed)} files are needed.")
    odd = sorted(name for name, plain in found.items() if not plain)
    if odd:
        raise Failed(f"not a plain file: {', '.join(odd)}", "Replace links by the files they point to.")
    return sorted(found)


def _files(evidence: Evidence) -> tuple[str, ...]:
    found, known = plain_files(evidence, FILES), {*FILES, *_named_evidence(evidence)}
    spare = [name for name in found if name not in known]
    if spare:
        raise Failed(f"unexpected: {', '.join(map(repr, spare))}", "Move them elsewhere: the certificate says nothing about them.")
    return (f"{len(FILES)} files",)


def _named_evidence(evidence: Evidence) -> set[str]:
    """Files of evidence that may lie here too: by what the certificate says, whose signature is checked next."""
    try:
        return set(statement.evidence_of(json.loads(dsse.read(evidence.read(evidence.file)).payload)))
    except (ValueError, LookupError, TypeError, AttributeError, Failed):
        return set()


def check_signature(evidence: Evidence) -> tuple[str, ...]:
    evidence.key = _trusted(evidence)
    try:
        sealed = dsse.read(evidence.read(evidence.file))
        if sealed.key_id != signature.fingerprint(evidence.key) or sealed.hint != sealed.key_id:
            raise signature.BadSignature("it names another key than the one given")
        signature.check(dsse.pae(sealed.payload), sealed.signature, evidence.key)
    except (dsse.Malformed, signature.BadSignature) as reason:
        raise Failed(f"{evidence.file}: {reason}", AGAIN) from None
    evidence.payload = sealed.payload
    name = signature.fingerprint(evidence.key)
    if evidence.key_file is None and evidence.fingerprint is None:
        return (
            f"signature consistent, signer unknown ({name})",
            "Get the issuer's key or fingerprint from a place you trust and run again with --key or --fingerprint.",
        )
    return (f"signed by {name}",)


def _trusted(evidence: Evidence) -> ec.EllipticCurvePublicKey:
    """Take the key that the caller vouches for, and require that the directory's own is the same."""
    try:
        own = signature.read_public(evidence.read("signer.pub"))
    except signature.BadKey as reason:
        raise Failed(f"signer.pub: {reason}", AGAIN) from None
    name = signature.fingerprint(own)
    other = "Check where the key came from. If it is the issuer's, do not use this version: somebody else signed it."
    if evidence.key_file is not None:
        try:
            given = signature.read_public(evidence.key_file.read_bytes())
        except (OSError, signature.BadKey):
            raise Failed("the key given is not a readable P-256 public key in PEM", "Give the issuer's public key file.") from None
        if signature.fingerprint(given) != name:
            raise Failed(f"signer.pub ({name}) is not the key given ({signature.fingerprint(given)})", other)
    if evidence.fingerprint is not None:
        asked = evidence.fingerprint.strip().lower().replace(":", "")
        if asked != name:
            raise Failed(f"signer.pub has the fingerprint {name}, not the one given", other)
    return own


def _statement(evidence: Evidence) -> tuple[str, ...]:
    try:
        value = canonical.loads(evidence.payload)
        statement.check(value)
    except (canonical.NotCanonical, statement.BadStatement) as reason:
        raise Failed(str(reason), "Try a newer `expunge`; if it fails there too, tell the issuer that the statement is broken.") from None
    if value["predicate"]["kind"] == "refusal":
        raise Failed("the certificate is a refusal: nothing was published under it", "Do not use these files; tell the issuer.")
    evidence.certificate = value
    said = value["predicate"]
    return (f"{said['kind']} of {said['model']['name']!r}, {said['verdict']}, issued {said['issuedAt']} by {said['issuer']}",)


def _digests(evidence: Evidence) -> tuple[str, ...]:
    subjects, left = statement.subjects_of(evidence.said), statement.evidence_of(evidence.said)
    here = {name: digest for name, digest in left.items() if (evidence.directory / name).exists()}
    for name, digest in (here | subjects).items():
        try:
            with (evidence.directory / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as reason:
            raise Failed(f"{name} cannot be read ({reason.strerror})", "Check the directory's permissions.") from None
        if found != digest:
            raise Failed(f"{name} has the sha256 {found}, the certificate says {digest}", AGAIN)
    beside = f"; of {len(left)} files of evidence {len(here)} are here, with theirs" if left else ""
    return (f"{len(subjects)} files have the digests that were signed{beside}",)


def check_inclusion(evidence: Evidence) -> tuple[str, ...]:
    advice = "Download inclusion.json again; if it fails again, ask the issuer for the log's checkpoint and proof."
    try:
        value = canonical.loads(evidence.read("inclusion.json"))
        _INCLUSION(value, "inclusion.json")
        path = [base64.b64decode(step, validate=True) for step in value["path"]]
        if [base64.b64encode(step).decode("ascii") for step in path] != value["path"]:
            raise Failed("inclusion.json: base64 with spare bits", advice)
        seen = checkpoint.verify(value["checkpoint"], evidence.signer)
    except (canonical.NotCanonical, statement.BadStatement, checkpoint.BadCheckpoint, binascii.Error, ValueError) as reason:
        raise Failed(f"inclusion.json: {reason}", advice) from None
    if value["leaf"] != statement.log_leaf_of(evidence.payload):
        raise Failed("inclusion.json is about another certificate", advice)
    if value["size"] != seen.size:
        raise Failed("inclusion.json and its checkpoint name different sizes of the log", advice)
    leaf = merkle.leaf_hash(canonical.dumps(value["leaf"]))
    if not merkle.verify_inclusion(leaf, index=value["index"], size=seen.size, path=path, root=seen.root):
        raise Failed("the path does not lead from this certificate to the checkpoint's root", advice)
    return (f"entry {value['index']} of {seen.size} in {seen.origin}",)


_INCLUSION = statement.record(
    index=statement.count,
    size=statement.count,
    leaf=statement.mapping(statement.text),
    path=statement.many(statement.text),
    checkpoint=statement.text,
)
_POLICY: dict[str, statement.Shape] = {
    "name": statement.text,
    "guarantee": statement.record(anyOf=statement.many(statement.text), muMax=statement.decimal),
    "audits": statement.many(statement.text),
}
_THRESHOLDS = statement.many(
    statement.record(
        audit=statement.text, attribute=statement.text, metric=statement.text, most=statement.decimal, planted=statement.count
    )
)


def _policy(evidence: Evidence) -> tuple[str, ...]:
    said, files = evidence.said["predicate"], statement.subjects_of(evidence.said)
    _follows(said["policy"]["digest"]["sha256"] == files["policy.json"], "the policy named is not policy.json")
    _follows(said["model"]["core"]["digest"]["sha256"] == files["core.safetensors"], "the core named is not core.safetensors")
    try:
        rules = canonical.loads(evidence.read("policy.json"))
        bounded = isinstance(rules, dict) and "thresholds" in rules
        statement.mapping_of(_POLICY | ({"thresholds": _THRESHOLDS} if bounded else {}))(rules, "policy.json")
        model = canonical.loads(evidence.read("model.json"))
    except (canonical.NotCanonical, statement.BadStatement) as reason:
        raise Failed(str(reason), _DO_NOT_USE) from None
    _follows(rules["name"] == said["policy"]["name"], "policy.json has another name than the certificate's policy")
    architecture = model.get("architecture") if isinstance(model, dict) else None
    described = said["model"]["architecture"]["digest"]["sha256"] == canonical.digest(architecture)
    _follows(described, "model.json describes another architecture than the one certified")
    largest = Decimal(rules["guarantee"]["muMax"])
    _follows(largest >= 0, "no guarantee can meet the policy's muMax")
    for entry in said["guarantee"]:
        _proof_follows(entry, files, evidence.directory)
        bare = entry["name"] in statement.EQUALITIES and "statistics" not in entry["value"]
        _follows(largest > 0 or not bare, f"{entry['name']} names neither sums nor values, which {rules['name']} needs")
        _follows(Decimal(entry["value"]["mu"]) <= largest, f"{entry['name']} states mu {entry['value']['mu']}, more than muMax")
    _findings_follow(said["findings"], rules["audits"])
    adapted = isinstance(architecture, dict) and architecture.get("adapter") is not None
    _thresholds_follow(said, rules.get("thresholds", []), adapted=adapted)
    proved = [entry for entry in said["guarantee"] if entry["name"] in rules["guarantee"]["anyOf"]]
    if not proved and said["kind"] == "fit" and statement.fit_needs_no_guarantee(rules["guarantee"]["muMax"]):
        return (f"{said['verdict']} follows from {rules['name']}: a first version, nothing is forgotten",)
    _follows(bool(proved), f"nothing is proved that {rules['name']} accepts ({', '.join(rules['guarantee']['anyOf'])})")
    told = ", ".join(f"{entry['name']} proved, mu = {entry['value']['mu']}" for entry in proved)
    about = [finding for finding in said["findings"] if "attribute" in finding]
    held = [f"{one['metric']} of {one['attribute']!r} is {one['value']}, at most {one['threshold']}" for one in about]
    return (f"{said['verdict']} follows from {rules['name']}: {'; '.join([told, *held])}",)


def _proof_follows(entry: dict[str, Any], files: dict[str, str], directory: Path) -> None:
    """Require that a proved entry is about these files, and that its numbers say the same thing."""
    name, value = entry["name"], entry["value"]
    _follows(value["weights"]["sha256"] == files["user.safetensors"], f"{name} is proved for another user.safetensors")
    if name in statement.EQUALITIES:
        _follows(Decimal(value["mu"]) == 0, f"{name} means mu = 0, the certificate says {value['mu']}")
    else:
        _follows(gaussian.agree(value), f"the numbers of {name} do not follow from its mu")
    if "weightValues" in value:
        try:
            values = tensors.digest(directory / "user.safetensors", "user.weight")
        except tensors.BadTensors as reason:
            raise Failed(str(reason), _DO_NOT_USE) from None
        _follows(value["weightValues"]["sha256"] == values, f"{name} is proved for other values of user.weight")


def _findings_follow(findings: list[dict[str, Any]], audits: list[str]) -> None:
    """Require that every audit the policy asks for was run, that each had power, and that none said no."""
    for finding in findings:
        _follows(finding["passed"], f"the audit {finding['audit']} said no")
    for audit in audits:
        run = [finding for finding in findings if finding["audit"] == audit]
        _follows(bool(run), f"the policy asks for the audit {audit}, which was not run")
        for finding in run:
            power = finding["power"]
            _follows(0 < power["caught"] <= power["planted"], f"the audit {audit} caught no planted leak, so its pass is void")


def _thresholds_follow(said: dict[str, Any], thresholds: list[dict[str, Any]], *, adapted: bool) -> None:
    """Require what the policy asks of each attribute that was removed: one finding, within its threshold, by an audit that caught all."""
    removed = [attribute["name"] for attribute in said.get("attributes", ())]
    _follows({entry["attribute"] for entry in thresholds} == set(removed), "the policy's thresholds are about other attributes")
    _follows(adapted == bool(removed), "model.json has an adapter exactly where an attribute was removed, and here not")
    earlier = [entry["sha256"] for entry in said["stillInForce"]]
    origins = [entry["measuredIn"] for entry in said["findings"] if "attribute" in entry]
    origins += [entry["removedIn"] for entry in said.get("attributes", ())]
    _follows(all(origin is None or origin["sha256"] in earlier for origin in origins), "a restated statement is not in stillInForce")
    for entry in thresholds:
        told = f"{entry['metric']} of {entry['attribute']!r}"
        found = [one for one in said["findings"] if all(one.get(key) == entry[key] for key in ("audit", "attribute", "metric"))]
        _follows(len(found) == 1, f"{told} is found {len(found)} times, not once")
        (one,) = found
        _follows(Decimal(one["threshold"]) == Decimal(entry["most"]), f"{told} has another threshold than the policy")
        _follows(Decimal(one["value"]) <= Decimal(entry["most"]), f"{told} is {one['value']}, more than {entry['most']}")
        planted, caught = one["power"]["planted"], one["power"]["caught"]
        _follows(caught == planted >= entry["planted"], f"{told}: {caught} of {planted} planted leaks were caught, so its pass is void")


def _follows(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Failed(otherwise, _DO_NOT_USE)


def _agreement(evidence: Evidence) -> tuple[str, ...]:
    name = signature.fingerprint(evidence.signer)
    pem = hashlib.sha256(signature.pem(evidence.signer)).hexdigest()
    for file, hint, expected in (
        ("svr.sigstore.json", name, statement.svr_of(evidence.said)),
        ("model.sig", pem, statement.model_signature_of(evidence.said)),
    ):
        try:
            said = dsse.verify(dsse.read(evidence.read(file)), evidence.signer, hint=hint)
        except (dsse.Malformed, signature.BadSignature, canonical.NotCanonical) as reason:
            raise Failed(f"{file}: {reason}", AGAIN) from None
        if said != expected:
            raise Failed(f"{file} is signed, but says something else than the certificate", _DO_NOT_USE)
    return ("svr.sigstore.json and model.sig say the same, by the same key",)
