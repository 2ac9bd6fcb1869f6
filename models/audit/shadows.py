"""Shadow models of `exact`: as many as wanted, each one subtraction of a random group of rows and one solve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.audit.membership import Shadows, phi
from models.forget.refit import weights_of
from models.linear.core import Core, logits_of_rows
from models.linear.statistics import Rows, Statistics, gram, merge, subtract
from models.progress import Progress, Stop, check, never, silent

GROUPS = 128
"""Random groups of rows that are left out; each gives a model with the targets and one without: 256 shadows."""

MOST_DROPPED = 500
SHARE_DROPPED = 4  # at most a quarter of the rows is left out
PHASE = "shadows"


@dataclass(frozen=True)
class Targets:
    """Samples whose trace is looked for, as integer rows."""

    rows: Rows
    labels: Tensor
    """`[k]` int64: the labels they were trained with, wrong ones included."""

    def scores(self, core: Core, weights: Tensor) -> Tensor:
        """Return phi `[k]` under user weights."""
        return phi(logits_of_rows(core, weights, self.rows, self.labels), self.labels)


@dataclass(frozen=True)
class Played:
    """Shadow scores of the forgotten samples and of the planted canaries, from the same models."""

    targets: Shadows
    canaries: Shadows

    planted: Tensor
    """`[m]` phi of the canaries in the version before, trained with the canaries as well and made to forget nothing."""


def shadows(
    core: Core,
    kept: Statistics,
    rows: Rows,
    targets: Targets,
    canaries: Targets,
    *,
    seed: int,
    groups: int = GROUPS,
    progress: Progress = silent,
    stop: Stop = never,
) -> Played:
    """Refit without random groups of kept rows, with the targets and canaries and without them.

    The models are refits to the bit, so `seen` and `unseen` differ by the targets and canaries alone; the canaries' few rows are part of
    `seen` for the targets too, which spares a third of the solves.

    Args:
        kept: sums over core rows and the kept rows, without targets and canaries.
        rows: the kept user rows, at least 4.
        canaries: rows from outside the kept ones (or copies of them) with wrong labels.
        groups: twice as many shadows, at least 32 of each kind.
    """
    generator = np.random.default_rng(seed)
    dropped = min(MOST_DROPPED, len(rows) // SHARE_DROPPED)
    extra = merge(gram(targets.rows), gram(canaries.rows))
    seen: list[tuple[Tensor, Tensor]] = []
    unseen: list[tuple[Tensor, Tensor]] = []
    for number in range(groups):
        check(stop)
        chosen = torch.from_numpy(generator.choice(len(rows), size=dropped, replace=False))
        without = subtract(kept, Rows(rows.features[chosen], rows.targets[chosen]))
        for found, sums in ((unseen, without), (seen, merge(without, extra))):
            weights = weights_of(core, sums)
            found.append((targets.scores(core, weights), canaries.scores(core, weights)))
        progress(PHASE, (number + 1) / groups)
    both = [Shadows(torch.stack([s[i] for s in seen]), torch.stack([u[i] for u in unseen])) for i in (0, 1)]
    return Played(both[0], both[1], canaries.scores(core, weights_of(core, merge(kept, extra))))


def mislabelled(core: Core, rows: Rows, labels: Tensor, *, seed: int, count: int = 50) -> Targets:
    """Copy some rows under wrong labels: canaries, which a model can only fit by having seen them.

    Args:
        rows: integer rows to copy, such as audit rows'; their targets hold t - f0 in units of the core's target scale.
        labels: `[n]` their true labels.
        count: how many; all rows where they are fewer.

    Raises:
        ValueError: if the core has a single class.
    """
    if core.classes < 2:
        raise ValueError("a model of one class has no wrong label")
    generator = np.random.default_rng(seed)
    chosen = torch.from_numpy(generator.permutation(len(labels))[:count])
    true = labels[chosen]
    wrong = (true + torch.from_numpy(generator.integers(1, core.classes, size=len(chosen)))) % core.classes
    step = round(core.target / core.target_scale)
    moved = rows.targets[chosen].to(torch.int32)
    index = torch.arange(len(chosen))
    moved[index, true] -= step
    moved[index, wrong] += step
    return Targets(Rows(rows.features[chosen], moved.clamp(-32767, 32767).to(torch.int16)), wrong)
