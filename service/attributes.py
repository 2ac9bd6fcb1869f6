"""Requests to remove an attribute: what the record already knows to be impossible is refused before a job is made."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from service import jobs
from service.problem import Problem, at
from service.removal import BudgetIn, ForgetAttribute, IreneIn, LnlIn, QuantizedIn
from service.schemas import ForgetBody
from service.states import Queue
from service.tables import Dataset, Model

FEWEST, MOST = 2, 20
"""Values of an attribute that can be removed: fewer say nothing, more leave too few rows a cell for the probes."""

WHY = {
    "auto": "Points are tried in order until fresh probes on the validation rows are within the budget: LEACE first where a linear claim "
    "is asked for; else IRENE at the bottleneck and through the network, LEACE after it where that costs little. Probes on rows that "
    "nothing was chosen by decide; if they say no, nothing is published, and the answer holds the best point that was reached.",
    "irene": "The information that a private head finds at the bottleneck is minimised there. The head never decides: fresh probes do.",
    "lnl": "A head's uncertainty about the attribute is raised, and its gradient reversed. The head never decides: fresh probes do.",
    "quantized": "The bottleneck is served as random bits, one draw an input, whose information about the attribute is computed. "
    "Fresh probes decide beside it.",
    "leace": "Closed form, in seconds: no linear reader finds the attribute on the rows it was fitted to. Others may; the probes decide.",
}


def budget(body: ForgetBody) -> BudgetIn:
    return body.budget or BudgetIn()


def erased(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was removed from a model so far, in order."""
    return list(spec.get("erased", ()))


def trained_on_users(spec: Mapping[str, Any]) -> bool:
    """Whether a model's core holds user data, so that forgetting a sample means training it again."""
    return any(entry["data"] == "all" for entry in erased(spec))


def new_job(session: Session, model: Model, method: str, queue: Queue, now: datetime, *, due_at: datetime) -> str:
    """A job of its own: requests about samples do not join it, nor it them."""
    return jobs.submit(
        session,
        kind="erase",
        dataset_id=model.dataset_id,
        model_id=model.id,
        method=method,
        now=now,
        queue="cpu" if method == "leace" else queue,
        due_at=due_at,
    ).id


def check(session: Session, model: Model, asked: ForgetAttribute, body: ForgetBody) -> None:
    """Refuse what this model or its data set cannot give.

    Raises:
        Problem: 422, naming the field and the way out.
    """
    _model_allows(model, body)
    dataset = session.get(Dataset, model.dataset_id)
    if dataset is None or dataset.summary is None:
        return
    if asked.name not in dataset.summary["attributes"]:
        known = ", ".join(dataset.summary["attributes"]) or "none"
        raise _no("attribute_unknown", f"This data set has the attributes: {known}.", "/forget/name", "no such attribute")
    if any(entry["name"] == asked.name for entry in erased(model.spec)):
        detail = "This attribute is removed already; the version's certificate says what is left of it."
        raise _no("attribute_removed", detail, "/forget/name", "removed already")
    counted = dataset.summary.get("census", {}).get(asked.name)
    if counted is not None:  # a data set read by an older release was not counted; its job finds out
        _rows_allow(counted, body)


def _model_allows(model: Model, body: ForgetBody) -> None:
    if model.spec.get("linearize"):
        raise _no(
            "model_linearised",
            "Attributes are removed from models without `linearize`: create one on the same data set.",
            "/model",
            "is linearised",
        )
    if model.spec["core"] == "none":
        raise _no("no_network", "A model with core `none` has no bottleneck. Create one with a network.", "/model", "has no network")
    if body.claim is not None and body.method not in ("auto", "leace"):
        raise _no("claim_unsupported", "`claim` goes with the methods auto and leace.", "/claim", "goes with auto and leace")
    scope = body.options.scope if isinstance(body.options, IreneIn | LnlIn | QuantizedIn) else None
    if scope == "network" and erased(model.spec):
        raise _no(
            "scope_unsupported",
            "Training the layers before the bottleneck could bring back what was removed before: use scope bottleneck.",
            "/options/scope",
            "not on a version from which an attribute was removed",
        )


def _rows_allow(counted: Mapping[str, Any], body: ForgetBody) -> None:
    data = body.data or "core"
    values = counted["values"][data]
    if data == "core" and not counted["rows"]["core"] and counted["values"]["all"] >= FEWEST:
        raise _no(
            "attribute_not_in_core",
            "No core row has this attribute. Ask with data `all`, or upload core rows that have it.",
            "/data",
            "core rows lack the attribute",
        )
    if not FEWEST <= values <= MOST:
        raise _no(
            "attribute_values",
            f"Attributes of {FEWEST} to {MOST} values can be removed; this one has {values} among the rows it would be fitted to. "
            "Group its values in another column.",
            "/forget/name",
            f"has not {FEWEST} to {MOST} values",
        )
    smallest = counted["smallest_budget"]
    if smallest is None:
        raise _no(
            "audit_rows",
            "Too few audit rows have this attribute for probes to be trained and judged on. Upload more rows of role audit with it.",
            "/forget/name",
            "too few audit rows have it",
        )
    if budget(body).max_leakage_nats < smallest:
        raise _no(
            "budget_too_small",
            f"With so many audit rows nothing below {smallest:.4g} nats can be certified, however clean the bottleneck. Ask for that, or "
            "upload more audit rows.",
            "/budget/max_leakage_nats",
            f"at least {smallest:.4g}",
        )


def _no(code: str, detail: str, pointer: str, what: str) -> Problem:
    return Problem(422, code, detail, errors=[at(pointer, what)])
