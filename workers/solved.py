"""User weights of a linearised version fitted again on some of its user samples: as first versions are, and served as it is served."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.audit.noisy_shadows import Releasing
from models.data import Samples
from models.linear.tangent import prepare
from models.linear.whole import quadratic, zero
from workers import linearised, released
from workers.artifacts import Shelf

RELEASED = ("cg", "sgd")
"""Methods whose versions carry noise. What fits, forgets everything or trains again releases its weights as they are."""


@dataclass(frozen=True)
class Solved:
    """How a version's user weights are fitted."""

    users: Samples
    """The user samples that it holds."""
    how: Releasing
    beneath: Tensor
    """`[m, ...]` prepared core rows."""
    noisy: bool
    """Whether the version carries a release's noise."""

    def fit(self, places: Tensor, start: Tensor | None = None) -> Tensor:
        """Return weights `[p]` fitted on the user samples at these places, before any noise.

        Args:
            start: `[p]`, where the solver begins; None begins at zero.

        Raises:
            FellShort: the solver gave up.
        """
        part, core = self.users.select(places), self.how.core
        loss = quadratic(core, prepare(core.tangent, part.inputs), part.labels, self.beneath)
        return self.how.fit(loss, zero(core) if start is None else start)

    def without(
        self, stay: Tensor, others: Iterable[Tensor], start: Tensor, noise: np.random.Generator, tell: Callable[[float], None]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return weights as served, fitted on the samples at `stay`; and by name, `other 1` and on, fitted without some others besides.

        Args:
            others: places of those.
            start: as for `fit`.
            tell: told the share that is done.

        Raises:
            FellShort: the solver gave up.
        """
        bare, gone = self.fit(stay, start), list(others)
        found, besides = self.served(bare, noise), dict[str, Tensor]()
        for number, places in enumerate(gone, start=1):
            tell(number / (len(gone) + 1))
            besides[f"other {number}"] = self.served(self.fit(stay[~torch.isin(stay, places)], bare), noise)
        tell(1.0)
        return found, besides

    def served(self, weights: Tensor, noise: np.random.Generator) -> Tensor:
        """Return fitted weights as a version serves them: rounded, and with a release's noise where the version has it."""
        return self.how.noised(weights, noise.bytes) if self.noisy else weights.float().double()


def solved(plan: Mapping[str, Any], shelf: Shelf, ids: Set[str]) -> Solved:
    """Load what fitting a linearised version again needs.

    Args:
        ids: what the model holds.
    """
    rows, classes = linearised.held_rows(plan, shelf, ids), plan["spec"]["classes"]
    users, core_rows = (linearised.samples(table, plan, classes) for table in (rows.user, rows.core))
    how = released.releasing(plan, linearised.load(plan, shelf))
    return Solved(users, how, prepare(how.core.tangent, core_rows.inputs), plan["method"] in RELEASED)
