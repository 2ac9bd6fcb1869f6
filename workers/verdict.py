"""The verdict about a removal, and what is said of it: findings that decide, figures that are shown beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

from torch import Tensor

from models.audit.interval import Interval
from models.audit.planted import OwnHead, Planted
from models.audit.probe import Probed
from service.policies import ACCURACY, DROP, LEAKAGE, LINEAR_LEAKAGE, PROBES
from workers.bounds import Gaps
from workers.curve import Point
from workers.judging import Asked

ACCESS = "the bottleneck's values as they are served"
Z95 = 1.959963984540054


@dataclass(frozen=True)
class Judged:
    """What the rows that decide say of the chosen point."""

    point: Point
    found: Probed
    planted: Planted
    drop: Drop
    from_parent: Drop | None
    before: Probed
    """What the same probes find in the same version with nothing removed."""
    own: OwnHead | None
    interval: Interval
    gaps: tuple[Gaps, Gaps]
    """With nothing removed, and after."""
    looks: int
    """Earlier removals from this model that were refused after a look at the same rows: who asks often enough finds luck."""


@dataclass(frozen=True)
class Drop:
    """Right answers lost, as a fraction of the rows, paired row by row, with its 95 % interval."""

    value: float
    ci95: tuple[float, float]
    n: int
    reference: float
    """The accuracy that it is lost from."""


def drop_of(before: Tensor, after: Tensor) -> Drop:
    """Compare which rows two models name rightly.

    Args:
        before, after: `[n]` booleans.
    """
    lost = before.double() - after.double()
    n, mean = len(lost), float(lost.mean())
    half = Z95 * float(lost.std(unbiased=True)) / sqrt(n)
    return Drop(mean, (mean - half, mean + half), n, float(before.double().mean()))


def refusal_of(judged: Judged, asked: Asked) -> dict[str, str] | None:
    """Why nothing may be published, with the best point that was reached; None where all is within the budget."""
    upper, drop = asked.leakage(judged.found)[2], judged.drop.value
    reached = (
        f"The best point reached is {judged.point.name}: at most {upper:.4g} nats are left (asked for: {asked.max_leakage_nats:g}), "
        f"{100 * drop:.2f} points of accuracy are lost (allowed: {100 * asked.max_accuracy_drop:g})."
    )
    if judged.planted.void:
        missed = ", ".join(leak.name for leak in judged.planted.leaks if not leak.caught)
        return {
            "code": "audit_without_power",
            "detail": f"The probes did not flag a leak that was planted for them ({missed}), so that they cannot pass anything. If the "
            f"version before keeps to the budget already there is nothing to remove; else upload more audit rows. {reached}",
        }
    if upper > asked.max_leakage_nats or drop > asked.max_accuracy_drop:
        return {"code": "budget_not_met", "detail": f"{reached} Allow more, or ask for another method; evidence has all points tried."}
    return None


def findings(judged: Judged, asked: Asked) -> list[dict[str, Any]]:
    """What decides, as `service.facts.Finding` takes it."""
    estimate, _, upper = asked.leakage(judged.found)
    power = judged.planted.power
    best = next(one for one in judged.found.probes if one.v_information == estimate)
    leakage = {
        "audit": PROBES,
        "access": ACCESS,
        "metric": LINEAR_LEAKAGE if asked.claim == "linear" else LEAKAGE,
        "value": text(upper),
        "ci95": [text(bound) for bound in best.ci95],
        "n": judged.found.n,
        "threshold": repr(asked.max_leakage_nats),
        "passed": upper <= asked.max_leakage_nats and not judged.planted.void,
        "planted": power.planted,
        "caught": power.caught,
        "reference": text(asked.leakage(judged.before)[2]),
    }
    accuracy = {
        "audit": ACCURACY,
        "access": "answers on audit rows",
        "metric": DROP,
        "value": text(judged.drop.value),
        "ci95": [text(bound) for bound in judged.drop.ci95],
        "n": judged.drop.n,
        "threshold": repr(asked.max_accuracy_drop),
        "passed": judged.drop.value <= asked.max_accuracy_drop,
        "planted": 0,
        "caught": 0,
        "reference": text(judged.drop.reference),
    }
    return [leakage, accuracy]


def figures(judged: Judged) -> list[dict[str, Any]]:
    """What is shown and decides nothing, as `service.facts.Figure` takes it."""
    found, shown = judged.found, []

    def add(name: str, value: float, ci95: tuple[float, float] | None = None, access: str = ACCESS) -> None:
        low, high = (None, None) if ci95 is None else map(text, ci95)
        shown.append({"name": name, "value": text(value), "low": low, "high": high, "access": access})

    add("attribute_entropy_nats", found.entropy)
    add("label_information_nats", found.label_information)
    for one in found.probes:
        add(f"{one.name}.v_information_nats", one.v_information, one.ci95)
        add(f"{one.name}.balanced_accuracy", one.balanced_accuracy)
        if one.conditional is not None:
            add(f"{one.name}.conditional_on_label_nats", one.conditional, one.conditional_ci95)
    add("majority", found.best.majority)
    add("v_information_nats.before", judged.before.leakage, judged.before.best.ci95)
    add("cells_left_out", len(found.left_out))
    add("earlier_looks", judged.looks)
    if judged.from_parent is not None:
        add("accuracy_drop_from_parent", judged.from_parent.value, judged.from_parent.ci95, "answers on audit rows")
    between = judged.interval
    add("leakage_interval.lower", between.lower)
    add("leakage_interval.upper", between.upper, None, f"{between.access}: {between.by}")
    if between.access != "weights":
        add("leakage_interval.upper", between.entropy, None, "weights: whoever holds them computes without the draw")
    if between.measured is not None:
        add("noisy_information_nats", between.measured, between.measured_ci95)
    for when, gaps in zip(("before", "after"), judged.gaps, strict=True):
        for name, gap in (("equalised_odds", gaps.equalised_odds), ("demographic_parity", gaps.demographic_parity)):
            if gap is not None:
                add(f"{name}_difference.{when}", gap, None, "answers on audit rows")
    if judged.own is not None:
        add("own_head.balanced_accuracy", judged.own.balanced_accuracy, judged.own.ci95, "the method's own private head")
        add("own_head.v_information_nats", judged.own.v_information, None, "the method's own private head")
        add("own_head.below_chance", float(judged.own.alarm), None, "the method's own private head")
    return shown


def parameters(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings as decimal and plain texts."""
    return {name: value if isinstance(value, str) else repr(value) for name, value in settings.items()}


def text(value: float) -> str:
    """A number as a certificate writes it."""
    return f"{value:.6g}" if value else "0"
