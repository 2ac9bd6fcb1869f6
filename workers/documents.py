"""A measured value as JSON: what statements and evidence say of it."""

from __future__ import annotations

from typing import Any

from models.guarantee import Measured

SAID = {
    "void": "Void: planted leaks went unseen, so nothing can be concluded.",
    "reported": "Reported; it decides nothing.",
    "passed": "Within the threshold, by an audit that saw what was planted for it.",
    "refused": "More than the threshold.",
}


def document(one: Measured) -> dict[str, Any]:
    """A measured value as an audit statement says it."""
    if one.void:
        answer = "void"
    elif one.threshold is None:
        answer = "reported"
    else:
        answer = "passed" if one.passed else "refused"
    power = None if one.power is None else {"planted": one.power.planted, "caught": one.power.caught}
    return {
        "audit": one.audit,
        "access": one.access,
        "metric": one.metric,
        "value": text(one.value),
        "ci95": None if one.ci95 is None else [text(bound) for bound in one.ci95],
        "n": one.n,
        "threshold": None if one.threshold is None else text(one.threshold),
        "null": None if one.null is None else {"mean": text(one.null[0]), "limit": text(one.null[1])},
        "reference": None if one.reference is None else text(one.reference),
        "power": power,
        "answer": answer,
        "says": one.note or SAID[answer],
    }


def text(value: float) -> str:
    """A decimal text of eight digits."""
    return f"{value:.8g}".replace("e+", "e") if value else "0"
