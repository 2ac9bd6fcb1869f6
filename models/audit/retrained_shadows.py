"""Shadow models of `retrain`: each a core trained from a seed of its own, and user weights on top. For small data alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch
from torch import Tensor

from models.audit.membership import FEWEST_SHADOWS, Shadows, phi
from models.audit.shadows import MOST_DROPPED, PHASE, SHARE_DROPPED, Played
from models.data import Samples
from models.forget.retrain import Fitted, Recipe, fit
from models.linear.core import Core, encode, logits_of_rows
from models.nets import build
from models.progress import Progress, Stop, check, never, silent

LARGEST_WORK = 1 << 36
"""Core rows times epochs times the network's parameters times values of an input. 450 digits, 40 epochs and 16,698 parameters are .28 of
it, and take 1.4 seconds of computing; the 65 cores of an audit a minute and a half."""


@dataclass(frozen=True)
class Rows:
    """Samples by what they are trained for."""

    core: Samples
    user: Samples

    def __len__(self) -> int:
        return len(self.core) + len(self.user)

    def plus(self, other: Rows) -> Rows:
        """Return both together."""
        return Rows(joined(self.core, other.core), joined(self.user, other.user))


def joined(first: Samples, second: Samples) -> Samples:
    """Return the samples of both, in this order."""
    inputs, labels = torch.cat([first.inputs, second.inputs]), torch.cat([first.labels, second.labels])
    return Samples(inputs, labels, first.ids + second.ids)


def affordable(recipe: Recipe, core_rows: int) -> bool:
    """Whether dozens of cores can be trained within minutes."""
    shape = recipe.architecture
    parameters = sum(value.numel() for value in build(shape, 0).parameters())
    return core_rows * recipe.training.epochs * parameters * prod(shape.input_shape) <= LARGEST_WORK


def scores(core: Core, weights: Tensor, rows: Rows) -> Tensor:
    """Return phi `[k]` of the samples, core before user, under a core and user weights."""
    both = joined(rows.core, rows.user)
    return phi(logits_of_rows(core, weights, encode(core, both.inputs, both.labels), both.labels), both.labels)


def shadows(
    recipe: Recipe,
    kept: Rows,
    targets: Rows,
    canaries: Rows,
    *,
    seed: int,
    groups: int = FEWEST_SHADOWS,
    progress: Progress = silent,
    stop: Stop = never,
) -> Played:
    """Train everything again without random groups of kept rows, with the targets and canaries and without them.

    Forgetting by `retrain` is training without the targets, so shadows that forgot would be those that never had them, bit for bit.
    Each model's core is trained from a seed of its own: the null is what retraining varies by, its randomness included.

    Args:
        recipe: with the ridge that the audited version has; choosing it anew would train twice as many networks.
        kept: rows without targets and canaries, at least 4 of the core.
        canaries: copies of kept rows under wrong labels.
        groups: twice as many shadows, at least 32 of each kind.
    """
    generator = np.random.default_rng(seed)
    extra = targets.plus(canaries)
    seen: list[tuple[Tensor, Tensor]] = []
    unseen: list[tuple[Tensor, Tensor]] = []

    def trained(rows: Rows) -> Fitted:
        check(stop)
        training = replace(recipe.training, seed=int(generator.integers(1 << 31)))
        return fit(replace(recipe, training=training), rows.core, rows.user)

    for number in range(groups):
        without = Rows(*(_some_dropped(part, generator) for part in (kept.core, kept.user)))
        for found, rows in ((unseen, without), (seen, without.plus(extra))):
            model = trained(rows)
            found.append((scores(model.core, model.weights, targets), scores(model.core, model.weights, canaries)))
        progress(PHASE, (number + 1) / groups)
    both = [Shadows(torch.stack([s[i] for s in seen]), torch.stack([u[i] for u in unseen])) for i in (0, 1)]
    model = trained(kept.plus(extra))
    return Played(both[0], both[1], scores(model.core, model.weights, canaries))


def mislabelled(samples: Samples, *, classes: int, seed: int, count: int) -> Samples:
    """Copy some samples under wrong labels.

    Args:
        count: how many; all where they are fewer.
    """
    generator = np.random.default_rng(seed)
    copies = samples.select(torch.from_numpy(generator.permutation(len(samples))[:count]))
    wrong = (copies.labels + torch.from_numpy(generator.integers(1, classes, size=len(copies)))) % classes
    return Samples(copies.inputs, wrong, tuple(f"canary {name}" for name in copies.ids))


def _some_dropped(samples: Samples, generator: np.random.Generator) -> Samples:
    gone = generator.choice(len(samples), size=min(MOST_DROPPED, len(samples) // SHARE_DROPPED), replace=False)
    stays = torch.ones(len(samples), dtype=torch.bool)
    stays[torch.from_numpy(gone)] = False
    return samples.select(stays)
