"""From an outcome and the record to the facts of a certificate, and to signed files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache, partial
from importlib.resources import files as package_files
from typing import Any

import rfc8785
from sqlalchemy import select
from sqlalchemy.orm import Session

from expunge import checkpoint
from expunge.checkpoint import Checkpoint
from service import certificates, facts, log, outcomes, pictures, requests
from service.certificates import Signer
from service.home import Home
from service.jobs import Claim
from service.outcomes import Signed
from service.policies import policy_of
from service.tables import Dataset, Job, Model, Version
from workers.removed import attributes_of, findings_of

FORGETTING = ("forget", "erase")
"""Kinds of jobs that carry out requests."""

SOLVERS = {"fit": "cholesky", "exact": "cholesky", "zero": "none", "retrain": "cholesky"}
"""How user weights are solved for; after an attribute was removed they are solved for again, by whatever method that was done."""
LINEARISED_SOLVERS = dict.fromkeys(("fit", "cg", "retrain"), "preconditioned conjugate gradients") | {
    "sgd": "stochastic gradient descent",
    "zero": "none",
}
NOISY = ("cg", "sgd")
COMPOSITION = (
    "Samples forgotten by the earlier statements in stillInForce, of which there are {earlier}: this version was computed from the release "
    "before it, from which they were already gone, and from samples that remain. That is post-processing: it adds nothing to the mu that "
    "those statements name, so that each mu bounds all releases from its own to this one together. Samples forgotten now: mu is of this "
    "release and of those computed from it, not of the versions before, which held these samples and are withdrawn."
)

MEASURED = (
    "Evidence: what an audit measured of the forgotten samples is computed from them. mu bounds what the released weights tell, and not "
    "what the evidence tells beside them: it is for the auditor."
)
COUNTED = (
    "Accuracy on the split forgotten is counted on the forgotten samples, before by weights that held them: mu bounds what the released "
    "weights tell, and not what these counts tell beside them. Of fewer than 20 samples they are withheld."
)


GONE = (
    ("user weights of the parent", "withdrawn at once, sealed, key destroyed when the rollback window ends"),
    ("A, B before this request", "key destroyed right after publishing"),
    (
        "integer feature rows and data set rows of the forget set",
        "blocks rewritten without them, old keys destroyed right after publishing",
    ),
    ("what was asked (ids, subjects)", "key destroyed right after publishing"),
)
GONE_ERASING = (
    ("core and user weights of the parent", "withdrawn at once, sealed, key destroyed when the rollback window ends"),
    ("A, B and integer feature rows on the parent's core", "encoded again on the new core, old keys destroyed right after publishing"),
    ("checkpoints, and the cores of points that were tried", "keys destroyed right after publishing"),
)
GONE_LINEARISED = (
    ("user weights of the parent", "withdrawn at once, sealed, key destroyed when the rollback window ends"),
    ("data set rows of the forget set", "blocks rewritten without them, old keys destroyed right after publishing"),
    ("what was asked (ids, subjects)", "key destroyed right after publishing"),
    ("the core's curvature: preconditioner and shape of the noise", "kept: made from core samples alone"),
)
_DROPPED = "in memory only, never stored; dropped once their sum was rounded"
GONE_ALONE = (("the solver's weights before the noise, its gradients and the noise", _DROPPED),)
GONE_SHARED = (
    ("the noise", _DROPPED),
    (
        "the solver's weights before the noise and its gradients",
        "sealed while several workers summed the gradients; keys destroyed at the latest right after publishing",
    ),
)
GONE_PICTURES = (("pictures of forgotten samples in the evidence of an audit", "sealed, key destroyed when the rollback window ends"),)
GONE_SHADOWS = (("models that audits fit, with the forget set and without it", "in memory only, never stored; dropped with the job"),)
"""Beside the weights, what was made from user samples, and what became of it."""


def certify_version(session: Session, home: Home, held: Claim, outcome: dict[str, Any], hardware: Mapping[str, Any]) -> Signed:
    """Sign what a fit or forget job computed. Adds model.json and policy.json to the outcome's files."""
    job, model, dataset = _records(session, held)
    said = outcome["facts"]
    architecture = _architecture(outcome["spec"], said)
    policy = policy_of(outcome["spec"])
    documents = {
        "model.json": certificates.model_file(architecture, said["classes"], outcome["spec"].get("linearize")),
        "policy.json": certificates.policy_file(policy),
    }
    for name, data in documents.items():
        if outcome["files"].get(name, {}).get("sha256") != hashlib.sha256(data).hexdigest():  # else the parent's, shared like its core
            outcome["files"][name] = _store(home, held, name, data)
    digests = {name: file["sha256"] for name, file in outcome["files"].items()}
    earlier = session.scalars(select(Version.statement).where(Version.model_id == model.id, Version.number > 1).order_by(Version.number))
    still_in_force = tuple(earlier)
    removed = outcome["spec"].get("erased", [])
    whole = facts.Facts(
        issuer=home.signer.issuer,
        issued_at=moment_text(job.created_at),
        job_id=job.id,
        policy=policy,
        model=_model(session, model, outcome, digests["core.safetensors"], architecture),
        method=_method(outcome["method"], outcome["spec"], hardware),
        reproduce=facts.Reproduce(command=_command(outcome["method"]), dataset=dataset.source_sha256),
        request=_request(session, held, said) if job.kind in FORGETTING else None,
        dispositions=said.get("dispositions"),
        emptied_classes=tuple(str(c) for c in said.get("emptied_classes", ())),
        guarantees=tuple(facts.Proved(**proved) for proved in said["guarantees"]),
        utility=tuple(_utility(row) for row in outcome["utility"]),
        findings=findings_of(removed),
        attributes=attributes_of(removed),
        limitations=facts.LIMITATIONS + (facts.ATTRIBUTE_LIMITATIONS if removed else ()),
        assumptions=_assumptions(outcome, still_in_force),
        still_in_force=still_in_force,
        evidence={name: file["sha256"] for name, file in (outcome.get("evidence") or {}).items()},
    )
    bundle = certificates.version_bundle(whole, digests, home.signer)
    return _signed("forget" if job.kind in FORGETTING else "fit", bundle, home.signer)


def certify_refusal(session: Session, home: Home, held: Claim, outcome: Mapping[str, Any], hardware: Mapping[str, Any]) -> Signed:
    """Sign that nothing was published, and why."""
    job, model, dataset = _records(session, held)
    parent = outcomes.latest(session, model.id)
    assert parent is not None
    refusal, tried = outcome["refusal"], outcome.get("tried")
    others = [entry for entry in model.spec.get("erased", []) if tried is None or entry["name"] != tried["name"]]
    removed = [*others, *([tried] if tried else [])]
    whole = facts.Facts(
        issuer=home.signer.issuer,
        issued_at=moment_text(job.created_at),
        job_id=job.id,
        policy=policy_of(dict(model.spec) | {"erased": removed}),
        model=facts.Model(
            name=model.name,
            architecture=model.spec["architecture"]["name"],
            architecture_digest=hashlib.sha256(rfc8785.dumps(model.spec["architecture"])).hexdigest(),
            core=parent.files["core.safetensors"]["sha256"],
            parent=facts.Parent(digest=parent.statement, disposition="stays certified: nothing was published"),
        ),
        method=_method(tried["method"] if tried else job.method or "exact", model.spec, hardware),
        reproduce=facts.Reproduce(command=_command(job.method or "exact"), dataset=dataset.source_sha256),
        request=_request(session, held, {"count": 0, "commitment": _empty_commitment()}),
        dispositions=outcome["facts"]["dispositions"],
        findings=findings_of([tried] if tried else []),
        attributes=attributes_of([tried] if tried else []),
        refusal=facts.Refusal(code=refusal["code"], detail=refusal["detail"]),
    )
    bundle = {"certificate.sigstore.json": certificates.refusal_bundle(whole, home.signer), "signer.pub": home.signer.public_pem}
    return _signed("refusal", bundle, home.signer)


def _signed(kind: str, bundle: Mapping[str, bytes], signer: Signer) -> Signed:
    certificate = bundle["certificate.sigstore.json"]
    return Signed(
        certificates.statement_digest(certificate),
        kind,
        {name: data.decode() for name, data in bundle.items()},
        leaf=certificates.log_leaf(certificate),
        inclusion=inclusion(signer),
    )


def inclusion(signer: Signer) -> Callable[[int, int, bytes, bytes, list[bytes]], str]:
    """What writes inclusion.json once the log has given a statement its place."""
    return partial(_inclusion, signer)


def _inclusion(signer: Signer, index: int, size: int, leaf: bytes, root: bytes, path: list[bytes]) -> str:
    note = checkpoint.sign(Checkpoint(log.origin(signer), size, root), sign=signer.sign, key=signer.public)
    return certificates.inclusion_file(leaf, index=index, size=size, path=path, checkpoint=note).decode()


def _records(session: Session, held: Claim) -> tuple[Job, Model, Dataset]:
    job = session.get(Job, held.job_id)
    assert job is not None
    model, dataset = session.get(Model, job.model_id), session.get(Dataset, job.dataset_id)
    assert model is not None and dataset is not None
    return job, model, dataset


def _store(home: Home, held: Claim, name: str, data: bytes) -> dict[str, Any]:
    sealed = home.vault.put(f"{held.job_id}-{held.fence}-{name}", data)
    return {"blob": sealed.blob_id, "sha256": sealed.sha256, "size": sealed.size}


def _assumptions(outcome: Mapping[str, Any], still_in_force: tuple[str, ...]) -> tuple[str, ...]:
    if outcome["method"] not in NOISY:
        return ()
    composed = (COMPOSITION.format(earlier=len(still_in_force)),) if still_in_force else ()
    counted = any(row["split"] == "forgotten" and row["after"] != "withheld" for row in outcome["utility"])
    return composed + ((COUNTED,) if counted else ()) + ((MEASURED,) if outcome.get("evidence") else ())


def _architecture(spec: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    form = {k: v for k, v in spec["architecture"].items() if v is not None}
    return form | {"input_shape": said["input_shape"], "classes": len(said["classes"])}


def _model(session: Session, model: Model, outcome: Mapping[str, Any], core: str, architecture: Mapping[str, Any]) -> facts.Model:
    parent = outcomes.latest(session, model.id)
    erasing = outcome["method"] != "retrain" and any(entry["statement"] is None for entry in outcome["spec"].get("erased", ()))
    goes: tuple[tuple[str, str], ...] = GONE_ERASING if erasing else GONE
    if outcome["spec"].get("linearize"):
        goes = GONE_LINEARISED + (GONE_SHARED if outcome.get("solver", {}).get("shared") else GONE_ALONE)
    goes += GONE_SHADOWS if any(file.get("fitted") for file in (outcome.get("evidence") or {}).values()) else ()
    goes += GONE_PICTURES if pictures.blobs(outcome.get("evidence")) else ()
    return facts.Model(
        name=model.name,
        architecture=architecture["name"],
        architecture_digest=hashlib.sha256(rfc8785.dumps(dict(architecture))).hexdigest(),
        core=core,
        parent=facts.Parent(digest=parent.statement, disposition="withdrawn") if parent else None,
        auxiliary_state=tuple(facts.AuxiliaryState(what=what, disposition=disposition) for what, disposition in (goes if parent else ())),
    )


def _method(name: str, spec: Mapping[str, Any], hardware: Mapping[str, Any]) -> facts.Method:
    return facts.Method(
        name=name,
        solver=(LINEARISED_SOLVERS if spec.get("linearize") else SOLVERS).get(name, "cholesky"),
        deterministic=name not in NOISY,
        implementation=implementation_digest(),
        hyperparameters=spec.get("resolved", {}),
        seed=spec.get("resolved", {}).get("training.seed", "0"),
        hardware=facts.Hardware(cpu=hardware["cpu"], torch=hardware["torch"], lapack=hardware["lapack"], threads=hardware["threads"]),
    )


def _request(session: Session, held: Claim, said: Mapping[str, Any]) -> facts.Request:
    asked = requests.of_job(session, held.job_id)
    return facts.Request(
        ids=tuple(r.id for r in asked),
        kind=asked[0].kind,
        reasons=tuple(sorted({r.reason for r in asked if r.reason})),
        received_at=moment_text(min(r.received_at for r in asked)),
        due_at=moment_text(min(r.due_at for r in asked)),
        count=said["count"],
        commitment=said["commitment"],
        adaptive=True,
    )


def _utility(row: Mapping[str, Any]) -> facts.Utility:
    return facts.Utility(metric=row["metric"], split=row["split"], **{name: _cell(row[name]) for name in ("before", "after", "retrained")})


def _cell(cell: Any) -> facts.Cell:
    if cell == "withheld":
        return "withheld"
    return facts.Accuracy(correct=cell["correct"], n=cell["n"], ci95=(cell["ci95"][0], cell["ci95"][1]))


def _command(method: str) -> str:
    return (
        "expunge reproduce VERSION_DIR --data DATASET.parquet --forgotten IDS.txt"
        if method != "fit"
        else "expunge reproduce VERSION_DIR --data DATASET.parquet"
    )


def _empty_commitment() -> str:
    return hashlib.sha256(b"").hexdigest()


def moment_text(when: datetime) -> str:
    """A UTC moment as statements write it."""
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@cache
def implementation_digest() -> str:
    """sha256 over the code that computes: every module of `models` and `workers`, in the order of their paths."""
    state = hashlib.sha256()
    for package in ("models", "workers"):
        root = package_files(package)
        with_paths = sorted((str(p), p) for p in _modules(root))
        for path, module in with_paths:
            data = module.read_bytes()
            state.update(f"{path.removeprefix(str(root))} {len(data)}\n".encode())
            state.update(data)
    return state.hexdigest()


def _modules(root: Any) -> list[Any]:
    found = []
    for entry in root.iterdir():
        if entry.is_dir():
            found += _modules(entry)
        elif entry.name.endswith(".py"):
            found.append(entry)
    return found
