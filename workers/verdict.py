"""The verdict about a removal, and what is said of it: findings that decide, figures that are shown beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

from torch import Tensor

from models.audit import findings
from models.audit.interval import Interval
from models.audit.planted import OwnHead, Planted
from models.audit.probe import Probed
from models.guarantee import Measured
from service.policies import ACCURACY, DROP
from workers.bounds import Gaps, of_gaps
from workers.curve import Point
from workers.judging import Asked
from workers.repeated import Again

ACCESS, ANSWERS = "the bottleneck's values as they are served", "answers on audit rows"
CHOOSES = ".chooses"
"""Ends the names of figures read from the rows that choose."""
Z95 = 1.959963984540054


@dataclass(frozen=True)
class Judged:
    """What the rows that decide say of the chosen point."""

    point: Point
    found: Probed
    planted: Planted
    null: tuple[Probed, ...]
    """What they find where the values were dealt out anew within each label."""
    drop: Drop
    from_parent: Drop | None
    before: Probed
    """What the same probes find in the same version with nothing removed."""
    own: OwnHead | None
    interval: Interval
    gaps: tuple[Gaps, Gaps]
    """With nothing removed, and after."""
    looks: int
    """Earlier removals that were refused after a look at the same rows, from any model of the data set: who asks often enough finds luck,
    so that with each the upper limits' level rises."""
    again: Again
    """What it makes of a removal to repeat it."""


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
    about, drop = judged.found.about(asked.claim), judged.drop.value
    nats = f"{about.upper:.4g} nats{' (cut at H(v))' if about.cut else ''}"
    reached = (
        f"The best point reached is {judged.point.name}: at most {nats} are left (asked for: {asked.max_leakage_nats:g}), "
        f"{100 * drop:.2f} points of accuracy are lost (allowed: {100 * asked.max_accuracy_drop:g})."
    )
    if judged.planted.void:
        missed = ", ".join(leak.name for leak in judged.planted.leaks if not leak.caught)
        return {
            "code": "audit_without_power",
            "detail": f"The probes did not flag a leak that was planted for them ({missed}), so that they cannot pass anything. If the "
            f"version before keeps to the budget already there is nothing to remove; else upload more audit rows. {reached}",
        }
    if about.upper > asked.max_leakage_nats or drop > asked.max_accuracy_drop:
        return {"code": "budget_not_met", "detail": f"{reached} Allow more, or ask for another method; evidence has all points tried."}
    return None


def stated(judged: Judged, asked: Asked) -> list[dict[str, Any]]:
    """What decides, as `service.facts.Finding` takes it."""
    leakage = _probed(judged, asked)[0]
    assert leakage.ci95 is not None and leakage.power is not None and leakage.threshold is not None and leakage.reference is not None
    drop = judged.drop
    return [
        {
            "audit": leakage.audit,
            "access": leakage.access,
            "metric": leakage.metric,
            "value": text(leakage.value),
            "ci95": [text(bound) for bound in leakage.ci95],
            "n": leakage.n,
            "threshold": repr(leakage.threshold),
            "passed": leakage.passed,
            "planted": leakage.power.planted,
            "caught": leakage.power.caught,
            "reference": text(leakage.reference),
        },
        {
            "audit": ACCURACY,
            "access": ANSWERS,
            "metric": DROP,
            "value": text(drop.value),
            "ci95": [text(bound) for bound in drop.ci95],
            "n": drop.n,
            "threshold": repr(asked.max_accuracy_drop),
            "passed": drop.value <= asked.max_accuracy_drop,
            "planted": 0,
            "caught": 0,
            "reference": text(drop.reference),
        },
    ]


def _probed(judged: Judged, asked: Asked) -> list[Measured]:
    budget, claim = asked.max_leakage_nats, asked.claim
    return findings.of_probes(judged.found, judged.planted, judged.null, budget=budget, access=ACCESS, claim=claim, before=judged.before)


def figures(judged: Judged, asked: Asked) -> list[dict[str, Any]]:
    """What is shown and decides nothing, as `service.facts.Figure` takes it."""
    n, drop, from_parent = judged.found.n, judged.drop, judged.from_parent
    leakage, *figures = _probed(judged, asked)
    shown = [*_null_of(leakage), *figures, *findings.of_interval(judged.interval, n, ACCESS)]
    shown.append(findings.shown(findings.PROBES, "earlier_looks", judged.looks, n, access=ACCESS))
    shown.append(findings.shown(findings.PROBES, "upper_limit_level", judged.found.level, n, access=ACCESS))
    again = judged.again
    shown += _repeated(again, asked, drop.n)
    if from_parent is not None:
        shown.append(
            findings.shown(ACCURACY, "accuracy_drop_from_parent", from_parent.value, from_parent.n, access=ANSWERS, ci95=from_parent.ci95)
        )
    for when, gaps, others in zip(("before", "after"), judged.gaps, again.gaps, strict=True):
        shown += of_gaps(gaps, others, drop.n, access=ANSWERS, suffix=f".{when}")
    if judged.own is not None:
        shown += findings.of_own_head(judged.own, n)
    return [_figure(each) for one in shown for each in (one, *_null_of(one))]


def _repeated(again: Again, asked: Asked, n: int) -> list[Measured]:
    """What the chosen point shows on the rows that choose, beside the same trained again from other seeds."""
    shown = [] if again.apart is None else [findings.shown(ACCURACY, f"{DROP}.retrained_apart", again.apart, n, access=ANSWERS)]
    own, looks = again.own, again.looks
    if own is None:
        return [*shown, findings.shown(findings.PROBES, "retrainings", 0, n, access=ACCESS, note=again.why)]
    anew, rows = [one.found for one in looks], own.found.n
    shown += findings.of_retrained(own.found, anew, access=ACCESS, claim=asked.claim, why=again.why, rows=CHOOSES)
    if not looks:
        return shown
    shown += findings.of_interval(own.between, rows, ACCESS, null=[one.between for one in looks], rows=CHOOSES)
    if own.own is not None:
        heads = [one.own for one in looks if one.own is not None]
        shown += findings.of_own_head(own.own, rows, null=heads, rows=CHOOSES)
    if own.drop is not None and own.gaps is not None:
        drops = findings.mean_and_largest([one.drop for one in looks if one.drop is not None])
        shown.append(findings.shown(ACCURACY, f"{DROP}{CHOOSES}", own.drop, rows, access=ANSWERS, null=drops))
        others = [one.gaps for one in looks if one.gaps is not None]
        shown += of_gaps(own.gaps, others, rows, access=ANSWERS, suffix=f".after{CHOOSES}")
    return shown


def _null_of(one: Measured) -> list[Measured]:
    """Its null as figures of their own, which is what certificates have."""
    return [
        findings.shown(one.audit, f"{one.metric}.{name}", value, one.n, access=one.access)
        for name, value in zip(("null_mean", "null_largest"), one.null or (), strict=False)
    ]


def _figure(one: Measured) -> dict[str, Any]:
    low, high = (None, None) if one.ci95 is None else map(text, one.ci95)
    return {"name": one.metric, "value": text(one.value), "low": low, "high": high, "access": one.access}


def parameters(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings as decimal and plain texts."""
    return {name: value if isinstance(value, str) else repr(value) for name, value in settings.items()}


def text(value: float) -> str:
    """A number as a certificate writes it."""
    return f"{value:.6g}" if value else "0"
