"""Audits of a version that is there: what may be asked for, by which policy they answer, and when they cannot be made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, model_validator
from sqlalchemy.orm import Session

from expunge import canonical
from service import attributes, jobs
from service.db import moment
from service.policies import AUDITS
from service.problem import Problem, at
from service.states import Queue
from service.tables import Dataset, Job, Model, Version

Audit = Literal["utility", "distance", "membership", "probes", "decoder"]


class AuditIn(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Counts(AuditIn):
    """How much is sampled; the policy's own counts where absent. Fewer is quicker and sees less."""

    shadow_groups: Annotated[StrictInt, Field(ge=32, le=1024)] | None = None
    """Two shadow models each, one with the targets and one without. Of a linearised model 32 with and 100 without, unless this is given.
    `membership`."""
    targets: Annotated[StrictInt, Field(ge=20, le=10_000)] | None = None
    """User samples whose trace is looked for. `membership`."""
    decoder_steps: Annotated[StrictInt, Field(ge=20, le=100_000)] | None = None
    """Of the decoder that is told nothing; all others go on from it, for half as many steps each. `decoder`."""
    pictures: Annotated[StrictInt, Field(ge=0, le=20)] | None = None
    """Audit images that are redrawn. `decoder`."""


class AuditBody(AuditIn):
    audits: Annotated[list[Audit], Field(min_length=1, max_length=5)]
    attribute: Annotated[StrictStr, Field(min_length=1, max_length=256)] | None = None
    """What `probes` look for, without the column's `attr_`."""
    counts: Counts = Counts()

    @model_validator(mode="after")
    def _fits(self) -> AuditBody:
        if len(set(self.audits)) != len(self.audits):
            raise ValueError("each audit is named once")
        if ("probes" in self.audits) != (self.attribute is not None):
            raise ValueError("`attribute` goes with the audit `probes`, and `probes` need one")
        return self


def policy_digest() -> str:
    """sha256 (hex) of the policy's canonical JSON."""
    return canonical.digest(AUDITS)


def shown_policy() -> dict[str, Any]:
    """The policy as GET /policies lists it."""
    meaning = "Audits of a version without forgetting, by POST /models/{name}/versions/{version}/audit: what they answer by."
    return {"name": AUDITS["name"], "digest": policy_digest(), "model": None, "meaning": meaning, "document": AUDITS}


def submit(session: Session, model: Model, version: Version, body: AuditBody, *, queue: Queue) -> Job:
    """Accept an audit of a certified version.

    Raises:
        Problem: 409 `version_withdrawn`; 422 where the model or its data set cannot be audited so.
    """
    if version.state != "certified":
        detail = "This version is withdrawn: its weights and rows are going or gone. Audit the latest: @latest-certified."
        raise Problem(409, "version_withdrawn", detail)
    _model_allows(session, model, body)
    task = {"version": version.number, "statement": version.statement, "audits": body.audits, "attribute": body.attribute}
    return jobs.submit(
        session,
        kind="audit",
        dataset_id=model.dataset_id,
        model_id=model.id,
        method=None,
        now=moment(session),
        queue=queue if "decoder" in body.audits else "cpu",
        task=task | {"counts": body.counts.model_dump(exclude_none=True)},
    )


def redrawn(shape: Sequence[int]) -> None:
    """Require inputs that a decoder can redraw.

    Raises:
        Problem: 422 `audit_unsupported`.
    """
    if len(shape) != 3 or shape[0] not in (1, 3) or max(shape[1:]) > MOST_PIXELS:
        raise _no("audit_unsupported", f"A decoder redraws images of 1 or 3 channels, at most {MOST_PIXELS} pixels wide.", "/audits")


def _model_allows(session: Session, model: Model, body: AuditBody) -> None:
    dataset = session.get_one(Dataset, model.dataset_id)
    summary = dataset.summary or {}
    if not summary.get("roles", {}).get("audit", {}).get("rows"):
        raise _no("audit_rows", "The data set has no rows of role audit: nothing can be measured. Upload some.", "/audits")
    shape = summary.get("shape", [])
    if "decoder" in body.audits:
        redrawn(shape)
    if "membership" in body.audits and attributes.trained_on_users(model.spec):
        detail = "The model's network itself was trained on user samples (data: all): refits on it are no retraining, and say nothing."
        raise _no("audit_unsupported", detail, "/audits")
    if body.attribute is not None and body.attribute not in summary.get("attributes", {}):
        known = ", ".join(summary.get("attributes", {})) or "none"
        raise _no("attribute_unknown", f"This data set has the attributes: {known}.", "/attribute")


MOST_PIXELS = 64


def _no(code: str, detail: str, pointer: str) -> Problem:
    return Problem(422, code, detail, errors=[at(pointer, "not possible here")])
