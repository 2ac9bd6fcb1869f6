"""What a certificate may say: the in-toto statement's one shape, and the two short statements that follow from it."""

import hashlib
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:expunge:certificate:v1"
SVR_TYPE = "https://in-toto.io/attestation/svr/v0.1"
MODEL_SIGNATURE_TYPE = "https://model_signing/signature/v1.0"

SUBJECT_FILES = ("core.safetensors", "model.json", "policy.json", "user.safetensors")
"""The files of a version that its certificate names by sha256."""

PROOF_FILES = ("certificate.sigstore.json", "inclusion.json", "model.sig", "signer.pub", "svr.sigstore.json")
"""The files that stand beside them and prove something about them; `model.sig` leaves these out."""

DISPOSITIONS = ("already_forgotten", "core_sample", "failed", "forgotten", "not_found", "on_hold", "refused")
PROVED_NAMES = ("equal_to_refit", "equal_to_retrain", "gaussian_indistinguishable")
EQUALITIES = ("equal_to_refit", "equal_to_retrain")
"""These mean mu = 0."""

PROVED_DIGESTS = ("statistics", "weights", "weightValues")
"""What of a proved value is a digest; the rest are numbers."""

FEWEST_ROWS = 20
"""An accuracy over fewer rows is withheld: one person's accuracy is personal data."""

Shape = Callable[[Any, str], None]
"""Raises `BadStatement` naming the place (second argument) where a value does not fit."""


class BadStatement(ValueError):
    """The statement does not have the shape that `PREDICATE_TYPE` promises."""


def statement(subjects: Mapping[str, str], predicate_type: str, predicate: Any) -> dict[str, Any]:
    """Build an in-toto Statement v1 over files named by sha256 (hex), in the order of their names."""
    listed = [{"name": name, "digest": {"sha256": subjects[name]}} for name in sorted(subjects)]
    return {"_type": STATEMENT_TYPE, "subject": listed, "predicateType": predicate_type, "predicate": predicate}


def subjects_of(certificate: Mapping[str, Any]) -> dict[str, str]:
    """Give the files that a well-formed statement names, with their sha256 (hex)."""
    return {subject["name"]: subject["digest"]["sha256"] for subject in certificate["subject"]}


def evidence_of(certificate: Mapping[str, Any]) -> dict[str, str]:
    """Give the files of evidence that a well-formed statement names, with their sha256 (hex)."""
    return {file["name"]: file["digest"]["sha256"] for file in certificate["predicate"].get("evidence", ())}


def svr_of(certificate: Mapping[str, Any]) -> dict[str, Any]:
    """Give the Simple Verification Result that follows from a certificate: the same files, and what was verified, in one word each.

    Source: https://github.com/in-toto/attestation/blob/main/spec/predicates/svr.md
    """
    said = certificate["predicate"]
    predicate = {
        "verifier": {"id": said["issuer"], "policy": said["policy"]},
        "timeCreated": said["issuedAt"],
        "properties": ["EXPUNGE_" + said["verdict"], *("EXPUNGE_" + entry["name"].upper() for entry in said["guarantee"])],
    }
    return statement(subjects_of(certificate), SVR_TYPE, predicate)


def model_signature_of(certificate: Mapping[str, Any]) -> dict[str, Any]:
    """Give the OpenSSF model signature that follows from a certificate: the files in order, and one digest over their digests.

    Source: https://github.com/ossf/model-signing-spec
    """
    files = sorted(subjects_of(certificate).items())
    whole = hashlib.sha256(b"".join(bytes.fromhex(digest) for _, digest in files)).hexdigest()
    predicate = {
        "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": list(PROOF_FILES)},
        "resources": [{"name": name, "algorithm": "sha256", "digest": digest} for name, digest in files],
    }
    return statement({certificate["predicate"]["model"]["name"]: whole}, MODEL_SIGNATURE_TYPE, predicate)


def log_leaf_of(payload: bytes) -> dict[str, str]:
    """Give what the transparency log keeps of a certificate: the sha256 of its statement, which is also the version's name by digest."""
    return {"certificate": hashlib.sha256(payload).hexdigest()}


def fit_needs_no_guarantee(mu_max: str) -> bool:
    """Whether a first version may prove nothing: where the policy accepts noisy releases. Nothing is forgotten by a first version."""
    return Decimal(mu_max) > 0


def check(value: Any) -> None:
    """Require the shape of a certificate, no field more and none less.

    Raises:
        BadStatement: naming the first place that does not fit.
    """
    _STATEMENT(value, "statement")
    said = value["predicate"]
    names = [subject["name"] for subject in value["subject"]]
    if said["kind"] == "refusal":
        fits = said["verdict"] == "REFUSED" and said["refusal"] is not None and not said["guarantee"] and names == ["policy.json"]
    else:
        fits = said["verdict"] == "PASSED" and said["refusal"] is None and names == list(SUBJECT_FILES)
    if not fits:
        raise BadStatement(f"statement: a {said['kind']} does not go with this verdict, refusal, guarantee or these subjects")
    if (said["request"] is None, said["model"]["parent"] is None) != ((said["kind"] == "fit",) * 2):
        raise BadStatement(f"statement: a {said['kind']} does not go with this request or parent")
    counted = 0 if said["request"] is None else said["request"]["forgetSet"]["count"]
    if counted != said["dispositions"]["forgotten"]:
        raise BadStatement("statement.predicate.request.forgetSet.count: not the number of forgotten samples")


def text(value: Any, where: str) -> None:
    if not isinstance(value, str) or not value:
        raise BadStatement(f"{where}: not a text")


def flag(value: Any, where: str) -> None:
    if not isinstance(value, bool):
        raise BadStatement(f"{where}: not true or false")


def count(value: Any, where: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise BadStatement(f"{where}: not a whole number from 0")


def matching(pattern: str, what: str) -> Shape:
    def fits(value: Any, where: str) -> None:
        if not isinstance(value, str) or not re.fullmatch(pattern, value, re.ASCII):
            raise BadStatement(f"{where}: not {what}")

    return fits


def one_of(*allowed: str) -> Shape:
    def fits(value: Any, where: str) -> None:
        if not isinstance(value, str) or value not in allowed:
            raise BadStatement(f"{where}: not one of {', '.join(allowed)}")

    return fits


def many(shape: Shape) -> Shape:
    def fits(value: Any, where: str) -> None:
        if not isinstance(value, list):
            raise BadStatement(f"{where}: not a list")
        for place, item in enumerate(value):
            shape(item, f"{where}[{place}]")

    return fits


def maybe(shape: Shape) -> Shape:
    def fits(value: Any, where: str) -> None:
        if value is not None:
            shape(value, where)

    return fits


def either(first: Shape, second: Shape) -> Shape:
    """The second shape, or the first; where neither fits, what the first says."""

    def fits(value: Any, where: str) -> None:
        try:
            second(value, where)
        except BadStatement:
            first(value, where)

    return fits


def record(**fields: Shape) -> Shape:
    return mapping_of(fields)


def mapping_of(fields: Mapping[str, Shape]) -> Shape:
    """An object with exactly these fields."""

    def fits(value: Any, where: str) -> None:
        if not isinstance(value, dict) or set(value) != set(fields):
            raise BadStatement(f"{where}: not an object with exactly {', '.join(sorted(fields))}")
        for name, shape in fields.items():
            shape(value[name], f"{where}.{name}")

    return fits


def mapping(shape: Shape) -> Shape:
    def fits(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise BadStatement(f"{where}: not an object")
        for name, item in value.items():
            shape(item, f"{where}.{name}")

    return fits


def moment(value: Any, where: str) -> None:
    """UTC, to the second or finer, in the one spelling that ends with Z."""
    _MOMENT(value, where)
    try:
        datetime.fromisoformat(value)
    except ValueError:
        raise BadStatement(f"{where}: no such moment") from None


def cell(value: Any, where: str) -> None:
    """An accuracy with its counts, or the word that it is withheld."""
    if value == "withheld":
        return
    record(correct=count, n=count, accuracy=decimal, ci95=many(decimal))(value, where)
    if value["n"] < FEWEST_ROWS or value["correct"] > value["n"] or len(value["ci95"]) != 2:
        raise BadStatement(f"{where}: fewer than {FEWEST_ROWS} rows, more correct than rows, or no interval")
    if value["accuracy"] != accuracy(value["correct"], value["n"]):
        raise BadStatement(f"{where}.accuracy: not the counts' quotient")


def accuracy(correct: int, n: int) -> str:
    """Write correct / n as a decimal text with six places."""
    return f"{correct / n:.6f}"


_MOMENT = matching(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z", "a UTC moment")
decimal = matching(r"-?(0|[1-9]\d{0,40})(\.\d{1,40})?(e-?\d{1,4})?", "a decimal text")
_SHA256 = record(sha256=matching(r"[0-9a-f]{64}", "a sha256 in hex"))
_HEX32 = matching(r"[0-9a-f]{64}", "32 bytes in hex")

_REQUEST = record(
    ids=many(text),
    kind=one_of("samples", "everything", "attribute"),
    reasons=many(text),
    receivedAt=moment,
    dueAt=moment,
    forgetSet=record(count=count, commitment=_HEX32),
    adaptive=flag,
)
_MODEL = record(
    name=text,
    architecture=record(id=text, digest=_SHA256),
    core=record(digest=_SHA256),
    parent=maybe(record(digest=_SHA256, disposition=text)),
    auxiliaryState=many(record(what=text, disposition=text)),
)
_METHOD = record(
    name=text,
    solver=text,
    implementation=record(digest=_SHA256),
    hyperparameters=mapping(text),
    seed=text,
    deterministic=flag,
    hardware=record(cpu=text, torch=text, lapack=text, threads=count),
)
_EQUALITY = record(
    name=one_of(*EQUALITIES),
    # Sums and single values are those of `exact`; of a linearised model the file is named.
    value=either(record(**dict.fromkeys(PROVED_DIGESTS, _SHA256), mu=decimal), record(weights=_SHA256, mu=decimal)),
    theorem=text,
    assumptions=many(text),
)
_GAUSSIAN = record(
    name=one_of("gaussian_indistinguishable"),
    value=mapping_of(
        {"weights": _SHA256, "noise": one_of("core curvature", "isotropic"), "bound": text}
        | dict.fromkeys(("mu", "sigma", "kl_nats", "epsilon", "delta", "advantage", "tpr_at_fpr_0.001"), decimal)
    ),
    theorem=text,
    assumptions=many(text),
)


def _proved(value: Any, where: str) -> None:
    gaussian = isinstance(value, dict) and value.get("name") == "gaussian_indistinguishable"
    (_GAUSSIAN if gaussian else _EQUALITY)(value, where)


_FOUND: Mapping[str, Shape] = {
    "audit": text,
    "access": text,
    "metric": text,
    "value": decimal,
    "ci95": many(decimal),
    "n": count,
    "threshold": decimal,
    "passed": flag,
    "power": record(planted=count, caught=count),
    "reference": text,
}
_OF_ATTRIBUTE = mapping_of({**_FOUND, "attribute": text, "measuredIn": maybe(_SHA256)})


def _finding(value: Any, where: str) -> None:
    about = isinstance(value, dict) and "attribute" in value
    (_OF_ATTRIBUTE if about else mapping_of(_FOUND))(value, where)


_ATTRIBUTE = record(
    name=text,
    values=count,
    data=one_of("core", "all"),
    claim=one_of("linear", "any"),
    method=text,
    scope=text,
    parameters=mapping(text),
    figures=many(record(name=text, value=decimal, low=maybe(decimal), high=maybe(decimal), access=text)),
    removedIn=maybe(_SHA256),
)
_SAID: Mapping[str, Shape] = {
    "verdict": one_of("PASSED", "REFUSED"),
    "kind": one_of("fit", "forget", "refusal"),
    "issuer": matching(r"[a-z][a-z0-9+.-]*:\S+", "a URI"),
    "issuedAt": moment,
    "jobId": text,
    "policy": record(name=text, digest=_SHA256),
    "request": maybe(_REQUEST),
    "dispositions": record(**dict.fromkeys(DISPOSITIONS, count)),
    "emptiedClasses": many(text),
    "model": _MODEL,
    "method": _METHOD,
    "guarantee": many(_proved),
    "findings": many(_finding),
    "utility": many(record(metric=text, split=text, before=cell, after=cell, retrained=cell)),
    "assumptions": many(text),
    "limitations": many(text),
    "reproduce": record(command=text, dataset=record(digest=_SHA256)),
    "stillInForce": many(_SHA256),
    "refusal": maybe(record(code=text, detail=text)),
}
_FURTHER: Mapping[str, Shape] = {
    "attributes": many(_ATTRIBUTE),
    "evidence": many(record(name=matching(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", "a plain name"), digest=_SHA256)),
}


def _predicate(value: Any, where: str) -> None:
    """Where no attribute was removed there is no field `attributes`; where no file of evidence was left, no field `evidence`."""
    further = {name: shape for name, shape in _FURTHER.items() if isinstance(value, dict) and name in value}
    mapping_of({**_SAID, **further})(value, where)


_STATEMENT = record(
    _type=one_of(STATEMENT_TYPE),
    subject=many(record(name=text, digest=_SHA256)),
    predicateType=one_of(PREDICATE_TYPE),
    predicate=_predicate,
)
