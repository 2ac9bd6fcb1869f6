"""What stands beside the probes: between which two numbers the leakage lies, and for whom; and how differently groups are treated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from models.audit import interval
from models.audit.fairness import fairness
from models.audit.findings import mean_and_largest, shown
from models.audit.interval import Interval
from models.audit.probe import Held, Probed
from models.erase.attribute import Attributed
from models.erase.quantized import theta_of
from models.erase.scope import bottleneck_values
from models.guarantee import Measured
from models.nets import Network
from workers.judging import SEED
from workers.refitting import Refitted, answers_of


def interval_of(net: Network, rows: Attributed, found: Probed, *, values: int, classes: int) -> Interval:
    """Between which two numbers of nats what is served says of the attribute lies, on the rows that the probes are judged on.

    The upper end holds for whoever sees served outputs, one draw an input; whoever holds the weights computes without the draw.
    """
    known, adapter = rows.known, net.architecture.adapter
    kinds = [link.kind for link in adapter.parts] if adapter is not None else []
    labels, inputs = known.samples.labels, known.samples.inputs
    if "quantized" in kinds:
        return interval.quantised(theta_of(net, inputs), known.values, labels, found, values=values, classes=classes)
    if adapter is not None and "noise" in kinds:
        place = kinds.index("noise")
        before = Held(bottleneck_values(net, inputs, links=place), known.values, labels)
        return interval.noisy(before, found, sigma=adapter.parts[place].sigma, values=values, classes=classes, seed=SEED)
    return interval.trivial(found)


@dataclass(frozen=True)
class Gaps:
    """The largest differences between groups, over the labels taken as the favourable answer in turn; None where too few rows show any."""

    equalised_odds: float | None
    demographic_parity: float | None


def gaps_of(model: Refitted, rows: Attributed, *, values: int, classes: int) -> Gaps:
    """Compare how a whole model answers the groups of the attribute."""
    return gaps(answers_of(model, rows.known.samples), rows, values=values, classes=classes)


def gaps(answers: Tensor, rows: Attributed, *, values: int, classes: int) -> Gaps:
    """The same of given answers.

    Args:
        answers: `[n]` int64, to the rows that have a value.
        values: K, of the attribute.
    """
    known = rows.known
    labels = (1,) if classes == 2 else tuple(range(classes))
    each = [fairness(answers, known.samples.labels, known.values, values=values, favourable=label) for label in labels]
    odds = [one.equalised_odds_difference for one in each if one.equalised_odds_difference is not None]
    parity = [one.demographic_parity_difference for one in each if one.demographic_parity_difference is not None]
    return Gaps(max(odds, default=None), max(parity, default=None))


def of_gaps(found: Gaps, null: Sequence[Gaps], n: int, *, access: str, suffix: str = "", note: str = "") -> list[Measured]:
    """State the differences between groups that enough rows show, beside those of retrained models.

    Args:
        n: rows that they are read from.
        suffix: of the metrics' names.
    """
    stated = []
    for name in ("equalised_odds", "demographic_parity"):
        if (gap := getattr(found, name)) is not None:
            others = mean_and_largest([value for value in (getattr(one, name) for one in null) if value is not None])
            stated.append(shown("fairness", f"{name}_difference{suffix}", gap, n, access=access, null=others, note=note))
    return stated
