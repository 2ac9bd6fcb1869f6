"""Policies, and the files that show how a job's result was reached."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy import select

from service import auditing, certificates, downloads, evidence, policies
from service.deps import MayRead, OpenHome, job_with
from service.facts import EXACT_POLICY, Policy, linearised_policy
from service.problem import not_found
from service.removal import BudgetIn
from service.schemas import Page
from service.tables import Certificate, Model

router = APIRouter(tags=["policies"])

EXAMPLES = (
    ("Models with fixed features: the refit or the retraining is equalled, bit for bit.", EXACT_POLICY),
    ("Linearised models: mu at most the model's own `mu_max`, here the default.", linearised_policy("0.2")),
    (
        "Models from which attributes were removed: beside equality to the refit, fresh probes with power find no more of each than its "
        "budget, here the default. `NAME` stands for the attribute's name.",
        policies.attribute_policy([{"name": "NAME", "claim": "any", "budget": BudgetIn().model_dump()}]),
    ),
)


@router.get("/policies", response_model=Page)
def list_policies(home: OpenHome, caller: MayRead) -> Any:
    """The kinds of policies with their defaults, then the policy that each model's next version must meet.

    `digest` is the sha256 of `policy.json`, which a version's certificate names; `document` is that file.
    """
    with home.db.read() as session:
        models = session.scalars(select(Model).order_by(Model.name)).all()
    items = [_shown(policy, meaning=meaning, model=None) for meaning, policy in EXAMPLES]
    items.append(auditing.shown_policy())
    items += [_shown(policies.policy_of(model.spec), meaning=None, model=model.name) for model in models]
    return {"items": items, "next": None}


def _shown(policy: Policy, *, meaning: str | None, model: str | None) -> dict[str, Any]:
    document = json.loads(certificates.policy_file(policy))
    return {"name": policy.name, "digest": certificates.policy_digest(policy), "model": model, "meaning": meaning, "document": document}


@router.get("/jobs/{job_id}/evidence")
def evidence_of(job_id: str, home: OpenHome, caller: MayRead) -> Response:
    """What a job left as evidence, of a version or of a refusal, with its signed statement, as a zip."""
    with home.db.read() as session:
        job = job_with(session, job_id)
        certificate = session.get(Certificate, job.statement) if job.statement else None
        if certificate is None:
            raise not_found("evidence")
        documents = {name: text.encode() for name, text in certificate.files.items()}
        files = dict(job.evidence or {})
    return evidence.packed(documents | evidence.read(home, files), name=job_id)


@router.get("/jobs/{job_id}/evidence/{file}", response_class=Response)
def evidence_file(job_id: str, file: str, request: Request, home: OpenHome, caller: MayRead) -> Response:
    """One file of a job's evidence, such as `trade-off.csv` or `trade-off.svg`. ETag is its sha256."""
    with home.db.read() as session:
        found = (job_with(session, job_id).evidence or {}).get(file)
    if found is None:
        raise not_found("file")
    return downloads.answer(request, home.vault, found["blob"], cache="private, no-cache")
