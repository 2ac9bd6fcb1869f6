"""Forget everything: the user weights become 0, which is what fitting to no user row gives."""

from __future__ import annotations

import torch

from models.forget.exact import Removal
from models.guarantee import Proved
from models.linear.core import Core
from models.linear.statistics import Statistics

WHOLE_THEOREM = (
    "Without any user row the loss of the user weights is a positive definite quadratic form without a linear term, so its one minimiser "
    "is w = 0. The released user weights are 0: they are those of refitting on the same core without the forgotten samples, and mu = 0."
)
WHOLE_ASSUMPTIONS = ("The core, its scale and linear part, a, L and the architecture were fixed from core samples alone.",)


def forget(begun: Statistics, core: Core) -> Removal:
    """Return the model without any user row: w_u = 0 and the sums over the core rows alone.

    Equal, by digest, to forgetting all user ids with `exact`, and to refitting on an empty set.

    Args:
        begun: `core_statistics` of the same core.

    Raises:
        ValueError: if the statistics hold user rows.
    """
    if begun.rows or bool(begun.B.any()):
        raise ValueError(f"the statistics of a core alone hold no user row; these hold {begun.rows}")
    return Removal(begun, torch.zeros(core.d, core.classes, dtype=torch.float64))


def proved_whole() -> Proved:
    """State what holds for a linearised model whose user weights are 0."""
    return Proved(name="equal_to_refit", value={"mu": "0"}, theorem=WHOLE_THEOREM, assumptions=WHOLE_ASSUMPTIONS)
