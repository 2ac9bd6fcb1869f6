"""Versions beside the retrained one: errors and answers on attacked, kept and test rows, and how soon the attacked are learnt again.

The retrained version is fitted from the rows themselves, not from the sums that a removal left. The null is what retraining varies by:
refits without as many other rows each, compared with the retrained version in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.audit.distance import MOST_STEPS, Loss, outputs, relearn, squared_loss
from models.audit.findings import MEMBERSHIP, Null, mean_and_largest, shown
from models.audit.utility import SMALLEST, accuracy, wilson
from models.forget.refit import refit, weights_of
from models.guarantee import Measured
from models.linear.core import Core, logits_of_rows
from models.linear.statistics import Statistics, subtract
from workers import audit_figures
from workers.artifacts import NamedRows
from workers.judging import SEED

REFITS = 8
"""Refits without other rows that the null is taken from."""

MOST_COMPARED = 5000
"""Rows of a group that are compared: of more, a random choice."""

MOST_LEARNT = 500
"""Attacked rows that are learnt again: of more, a random choice."""

ERROR, L1, KL = "error", "L1 of answers to the retrained version", "KL, nats, from the retrained version"
STEPS, WEIGHTS = "steps to learn again", "L2 of user weights from the retrained version's, of their own length"
ALL = "all"
"""The group of rows that a distance of weights is about."""


@dataclass(frozen=True)
class Sides:
    """What is compared."""

    core: Core
    versions: Mapping[str, Tensor]
    """User weights `[d, C]`; the first version is the one that was fitted on the attacked rows."""
    aimed: NamedRows
    """The attacked rows: forgotten ones, or those whose trace is looked for."""
    stay: NamedRows
    """The user rows without them, at least 4."""
    test: NamedRows | None
    base: Statistics
    """Of the core rows alone."""


@dataclass(frozen=True)
class Reading:
    """One number of one version."""

    group: str
    version: str
    metric: str
    value: float | None
    """None: not learnt again within the steps that were tried."""
    ci95: tuple[float, float] | None
    null: Null | None
    n: int


def compared(sides: Sides, name: str, tell: Callable[[float], None]) -> tuple[list[Measured], dict[str, bytes]]:
    """Compare versions with the retrained one. Returns what the membership audit says of it, and its files.

    Args:
        name: of the attacked group.
    """
    core, n = sides.core, len(sides.stay.ids)
    anew = refit(core, sides.base, [sides.stay.rows])
    generator = np.random.default_rng(SEED)
    order = generator.permutation(n)
    half, pool = order[: n // 2], order[n // 2 :]  # the null's refits leave rows of the pool out; they all hold the half compared on
    groups = {name: sides.aimed, "kept": _some(sides.stay, half)} | ({"test": sides.test} if sides.test is not None else {})
    others = []
    for number in range(REFITS):
        gone = _some(sides.stay, generator.choice(pool, size=min(len(sides.aimed.ids), len(pool) // 2), replace=False))
        others.append(weights_of(core, subtract(anew.statistics, gone.rows)))
        tell(0.6 * (number + 1) / REFITS)
    versions = dict(sides.versions) | {"retrained": anew.weights}
    readings: list[Reading] = []
    for group, rows in groups.items():
        chosen = _some(rows, generator.permutation(len(rows.ids))[:MOST_COMPARED])

        def answers(weights: Tensor, chosen: NamedRows = chosen) -> Tensor:
            return logits_of_rows(core, weights, chosen.rows, chosen.labels)

        readings += of_group(group, chosen.labels, answers, versions, others)
    learnt = _some(sides.aimed, generator.permutation(len(sides.aimed.ids))[:MOST_LEARNT])
    if len(learnt.ids) >= SMALLEST:
        readings += relearnt(name, *squared_loss(core, learnt.rows), len(learnt.ids), versions, others)
    readings += of_weights(versions, others, n)
    tell(1.0)
    return stated(readings)


def stated(readings: Sequence[Reading]) -> tuple[list[Measured], dict[str, bytes]]:
    """Say what was read, as measured values and as files."""
    drawn = audit_figures.errors([(one.group, one.version, one.value, one.ci95) for one in readings if one.metric == ERROR])
    return [_stated(one) for one in readings], {"membership-errors.svg": drawn, "membership-distances.csv": _csv(readings)}


def _some(rows: NamedRows, places: NDArray[np.int64]) -> NamedRows:
    mask = np.zeros(len(rows.ids), dtype=bool)
    mask[places] = True
    return rows.pick(mask)


def of_group(
    group: str, labels: Tensor, answers: Callable[[Tensor], Tensor], versions: Mapping[str, Tensor], others: Sequence[Tensor]
) -> list[Reading]:
    """Compare versions on one group of rows.

    Args:
        labels: `[n]` int64.
        answers: from a version's weights to its logits `[n, C]`.
        versions: weights by name, `retrained` among them.
        others: weights of refits without other rows, for the null.
    """
    anew, varied = answers(versions["retrained"]), [answers(weights) for weights in others]
    apart = [one for one in (outputs(logits, anew) for logits in varied) if one is not None]
    errors = [1 - cell.value for cell in (accuracy(logits, labels) for logits in varied) if cell is not None]
    null = {L1: mean_and_largest([one.l1 for one in apart]), KL: mean_and_largest([one.kl for one in apart])}
    found: list[Reading] = []
    for version, weights in versions.items():
        logits = answers(weights)
        cell, distance = accuracy(logits, labels), outputs(logits, anew)
        if cell is not None:
            wrong = cell.n - cell.correct
            found.append(Reading(group, version, ERROR, wrong / cell.n, wilson(wrong, cell.n), mean_and_largest(errors), cell.n))
        if distance is not None and version != "retrained":
            for metric, value in ((L1, distance.l1), (KL, distance.kl)):
                found.append(Reading(group, version, metric, value, None, null[metric], distance.n))
    return found


def of_weights(versions: Mapping[str, Tensor], others: Sequence[Tensor], n: int) -> list[Reading]:
    """How far versions' user weights lie from the retrained one's: |w - w_r| / |w_r|.

    Args:
        n: user rows that the retrained version was fitted on.
    """
    anew = versions["retrained"]

    def apart(weights: Tensor) -> float:
        return float((weights - anew).norm() / anew.norm())

    null = mean_and_largest([apart(weights) for weights in others])
    return [Reading(ALL, name, WEIGHTS, apart(weights), None, null, n) for name, weights in versions.items() if name != "retrained"]


def relearnt(group: str, loss: Loss, rate: float, n: int, versions: Mapping[str, Tensor], others: Sequence[Tensor]) -> list[Reading]:
    """Steps of training on the attacked rows until their loss is what it is in the version that was fitted on them.

    Args:
        n: rows that are learnt again.
        versions: the first was fitted on the rows.
    """
    first, *rest = versions
    goal, _ = loss(versions[first])
    again = [relearn(weights, loss, goal, rate=rate) for weights in others]
    null = mean_and_largest([float(MOST_STEPS if steps is None else steps) for steps in again])
    found: list[Reading] = []
    for version in rest:
        steps = relearn(versions[version], loss, goal, rate=rate)
        found.append(Reading(group, version, STEPS, None if steps is None else float(steps), None, null, n))
    return found


def _stated(one: Reading) -> Measured:
    note = f"The null is over {REFITS} refits without as many other rows: their mean, and the largest."
    if one.value is None:
        note = f"Not within {MOST_STEPS} steps. {note}"
    metric, value = f"{one.metric}: {one.group} rows, {one.version}", MOST_STEPS if one.value is None else one.value
    return shown(MEMBERSHIP, metric, value, one.n, ci95=one.ci95, null=one.null, note=note)


def _csv(readings: Sequence[Reading]) -> bytes:
    rows = [
        (one.group, one.version, one.metric, f"more than {MOST_STEPS}" if one.value is None else one.value, *(one.ci95 or ("", "")),
         *(one.null or ("", "")), one.n)
        for one in readings
    ]  # fmt: skip
    return audit_figures.table(("rows", "version", "metric", "value", "low", "high", "null_mean", "null_largest", "n"), rows)
