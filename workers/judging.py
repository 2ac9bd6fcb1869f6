"""What fresh probes find of an attribute behind a bottleneck: rows that choose among points, rows that decide about the chosen one."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from models.audit.balance import level_after
from models.audit.permuted import permuted
from models.audit.planted import Planted, balanced_rows, planted, smallest_budget
from models.audit.probe import Held, Probed, probe
from models.data import Samples
from models.erase.attribute import Attributed
from models.linear.features import BATCH
from models.nets import Network
from models.progress import Progress
from models.train import threads
from workers.attributed import Material, learns
from workers.failure import Failure

CAUTION = 0.8
"""Share of the leakage budget within which a point counts as good on the rows that choose: whoever looks for the best finds luck too."""

SEED = 0
"""Of probes and resampling: the same version judged again gives the same findings."""


@dataclass(frozen=True)
class Asked:
    """What a removal must reach."""

    claim: str
    """linear or any: whose reading the leakage is."""
    max_leakage_nats: float
    max_accuracy_drop: float

    def excess(self, found: Probed, drop: float, *, rows: int) -> float:
        """How far beyond the budget the rows that choose show a point to be, in budgets; 0 within it.

        The upper limit is the one that `rows` rows would give: those that choose are fewer than those that decide.
        """
        estimate, upper = found.about(self.claim).leakage, found.about(self.claim).upper
        expected = estimate + (upper - estimate) * sqrt(found.n / max(1, rows))
        leaks = max(0.0, expected / (CAUTION * self.max_leakage_nats) - 1)
        return leaks + max(0.0, drop - self.max_accuracy_drop) / max(self.max_accuracy_drop, 0.005)


@torch.inference_mode()
def bottleneck(net: Network, samples: Samples) -> Tensor:
    """What a version's bottleneck says of each row, as it is served: behind the adapter where there is one. `[n, d]` float32."""
    parts = net.parts[: net.parts.index("adapter" if net.architecture.adapter is not None else net.bottleneck) + 1]
    found = []
    with threads(1):
        for start in range(0, len(samples), BATCH):
            found.append(net.run(samples.inputs[start : start + BATCH], parts).flatten(1).float())
    return torch.cat(found)


def held(net: Network, rows: Attributed) -> Held:
    """The rows that have a value, as the probes read them."""
    known = rows.known
    return Held(bottleneck(net, known.samples), known.values, known.samples.labels)


def choosing(net: Network, rows: Material, *, classes: int, level: float, progress: Progress) -> Probed:
    """Probe on the rows that choose: half of them train the probes, the others judge.

    Args:
        level: of the upper limits: that of the rows that decide, for which a point is chosen.

    Raises:
        Failure: they are too few.
    """
    known = rows.chooses.known
    trains = learns(known)
    train, test = held(net, known.select(trains)), held(net, known.select(~trains))
    return _probed(train, test, rows, classes, progress, conditional=False, level=level)


def deciding(net: Network, rows: Material, *, classes: int, level: float, progress: Progress, conditional: bool = True) -> Probed:
    """Probe on the rows that decide: all that choose train the probes."""
    return _probed(held(net, rows.chooses), held(net, rows.decides), rows, classes, progress, conditional=conditional, level=level)


def dealt_anew(net: Network, rows: Material, *, classes: int, level: float, progress: Progress) -> tuple[Probed, ...]:
    """What the deciding probes find where the values were dealt out anew: their own bias."""
    train, test = held(net, rows.chooses), held(net, rows.decides)
    return permuted(train, test, values=len(rows.values), classes=classes, seed=SEED, level=level, progress=progress)


def _probed(train: Held, test: Held, rows: Material, classes: int, progress: Progress, *, conditional: bool, level: float) -> Probed:
    values = len(rows.values)
    try:
        return probe(train, test, values=values, classes=classes, seed=SEED, conditional=conditional, level=level, progress=progress)
    except ValueError as error:
        raise Failure("audit_rows", f"The audit rows are too few for probes ({error}). Upload more with this attribute.") from error


def power(net: Network, before: Network, rows: Material, *, classes: int, budget: float, progress: Progress) -> Planted:
    """Whether the deciding probes flag leaks that were planted for them, the version before among them."""
    return planted(
        held(net, rows.chooses),
        held(net, rows.decides),
        values=len(rows.values),
        classes=classes,
        budget=budget,
        seed=SEED,
        before=(held(before, rows.chooses), held(before, rows.decides)),
        progress=progress,
    )


def worth(rows: Attributed, values: int) -> int:
    """How many balanced rows these are worth to probes."""
    known = rows.known
    return balanced_rows(torch.bincount(known.samples.labels * values + known.values).tolist())


def refuse_small_budget(rows: Material, asked: Asked, *, looks: int) -> None:
    """Refuse what the deciding rows could not certify of a bottleneck that says nothing.

    Args:
        looks: earlier ones at the deciding rows.

    Raises:
        Failure: `budget_too_small`, with the smallest that can be.
    """
    least = smallest_budget(worth(rows.decides, len(rows.values)), len(rows.values), level=level_after(looks))
    if asked.max_leakage_nats < least:
        before = f" and after {looks} refused looks at them" if looks else ""
        detail = f"With so many audit rows{before} nothing below {least:.4g} nats can be certified. Ask for that, or upload more."
        raise Failure("budget_too_small", detail)
