"""The null of a version's scores: user weights fitted again, each time on another half of the user samples.

Two refits on the two halves of one division have equal sizes and no user sample in common: how far their scores lie apart is what
retraining alone does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.audit.findings import Null, mean_and_largest
from models.audit.noisy_shadows import FellShort
from models.forget.refit import weights_of
from models.linear.core import Core
from models.linear.statistics import Rows, Statistics, gram, merge
from models.linear.tangent import prepare
from models.linear.whole import quadratic, zero
from workers import linearised, released
from workers.artifacts import Shelf
from workers.judging import SEED

DIVISIONS = 4
"""Random divisions into halves, each of which gives two refits. Of a linearised model one: a refit there takes a solver's passes."""

FEWEST = 2
"""User samples below which there are no two halves."""

RELEASED = ("cg", "sgd")
"""Methods whose versions carry noise. What fits, forgets everything or trains again releases its weights as they are."""

ON_USERS = "The network itself was trained on user samples (data: all): user weights refitted on halves of them are no retraining."
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

    def null_of(self, score: Callable[[Tensor], float | None]) -> Null | None:
        """Return the mean and the largest of the refits' scores; None where there is none."""
        scores = [score(weights) for weights in self.weights]
        return mean_and_largest([value for value in scores if value is not None])

    @property
    def note(self) -> str:
        """What the null is, in a sentence."""
        return self.why or f"The null is over {len(self.weights)} refits on a random half of the user samples each: mean and largest."


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


def of_linearised(plan: Mapping[str, Any], shelf: Shelf, ids: set[str]) -> Halves:
    """Fit a linearised model again on each half of one division, by its own solver; with a release's noise where the version has it.

    Args:
        ids: what the model holds.
    """
    rows, classes = linearised.held_rows(plan, shelf, ids), plan["spec"]["classes"]
    users, core_rows = (linearised.samples(table, plan, classes) for table in (rows.user, rows.core))
    if len(users) < FEWEST:
        return Halves((), NOBODY)
    how, noise = released.releasing(plan, linearised.load(plan, shelf)), np.random.default_rng(SEED)
    core, beneath = how.core, prepare(how.core.tangent, core_rows.inputs)

    def fitted(places: Tensor) -> Tensor:
        part = users.select(places)
        loss = quadratic(core, prepare(core.tangent, part.inputs), part.labels, beneath)
        weights = how.fit(loss, zero(core))
        return how.noised(weights, noise.bytes) if plan["method"] in RELEASED else weights.float().double()

    one, other = divisions(len(users))[0]
    try:
        return Halves(((fitted(one), fitted(other)),))
    except FellShort as why:
        return Halves((), f"There is no null. {why}")
