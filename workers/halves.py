"""The null of a version's scores: user weights fitted again, each time on another half of the user samples.

Two refits on the two halves of one division have equal sizes and no user sample in common: how far their scores lie apart is what
retraining alone does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.audit.noisy_shadows import FellShort
from models.forget.refit import weights_of
from models.linear.core import Core
from models.linear.statistics import Rows, Statistics, gram, merge
from workers.judging import SEED
from workers.solved import Solved

DIVISIONS = 4
"""Random divisions into halves, each of which gives two refits. Of a linearised model one: a refit there takes a solver's passes."""

FEWEST = 2
"""User samples below which there are no two halves."""

NOBODY = "The model holds fewer than 2 user samples: there are no two halves to refit on."


@dataclass(frozen=True)
class Halves:
    """Refits on halves of the user samples."""

    pairs: tuple[tuple[Tensor, Tensor], ...]
    """User weights of the two refits of each division."""

    why: str = ""
    """Why there are none."""

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """All refits' user weights."""
        return tuple(one for pair in self.pairs for one in pair)


def divisions(n: int) -> list[tuple[Tensor, Tensor]]:
    """Places of the two halves of `n` rows, by each division."""
    generator = np.random.default_rng(SEED)
    orders = [torch.from_numpy(generator.permutation(n)) for _ in range(DIVISIONS)]
    return [(order[: n // 2], order[n // 2 : 2 * (n // 2)]) for order in orders]


def of_fixed_features(core: Core, base: Statistics, users: Rows) -> Halves:
    """Refit a model of fixed features from its integer rows.

    Args:
        base: the sums over the core rows alone.
    """
    if len(users) < FEWEST:
        return Halves((), NOBODY)

    def fitted(places: Tensor) -> Tensor:
        return weights_of(core, merge(base, gram(Rows(users.features[places], users.targets[places]))))

    return Halves(tuple((fitted(one), fitted(other)) for one, other in divisions(len(users))))


def of_linearised(one: Solved, tell: Callable[[float], None]) -> Halves:
    """Fit a linearised version again on each half of one division; with a release's noise where the version has it.

    Args:
        tell: told the share that is done.
    """
    if len(one.users) < FEWEST:
        return Halves((), NOBODY)
    noise = np.random.default_rng(SEED)
    fitted: list[Tensor] = []
    try:
        for half in divisions(len(one.users))[0]:
            fitted.append(one.served(one.fit(half), noise))
            tell(len(fitted) / 2)
    except FellShort as why:
        return Halves((), f"There is no null. {why}")
    return Halves(((fitted[0], fitted[1]),))
