"""Forget samples to the bit: take their integer rows out of the sums and solve again."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from models.forget.refit import bits, weights_of
from models.guarantee import SEALED, Proved
from models.linear.core import Core
from models.linear.statistics import Rows, Statistics, subtract

THEOREM = (
    "A and B are sums of products of integers, so subtracting the forgotten rows leaves exactly the sums over the kept rows, in any order; "
    "the weights are one fixed computation on A, B and the core. Hence the weights after forgetting are, bit for bit, those of refitting "
    "on the same core without the forgotten samples, and mu = 0: equal outputs are 0-Gaussian differentially private."
)

ASSUMPTIONS = (
    "The core, its scale and linear part, the targets' scale a, the ridge L and the architecture were fixed from core samples alone.",
    "The integer rows subtracted are the stored rows that were once added.",
    "The digest of A and B holds on any machine; that of the weights needs the same LAPACK build, processor kernels and thread count.",
    SEALED,
)


@dataclass(frozen=True)
class Removal:
    """What one removal left behind."""

    statistics: Statistics
    """The sums over core and remaining user rows."""

    weights: Tensor
    """w_u `[d, C]` float64: the bits that refitting without the forgotten rows gives."""


def forget(statistics: Statistics, gone: Rows, core: Core, *, overwrite: bool = False) -> Removal:
    """Move the user weights to where fitting on the remaining rows alone would have put them.

    Subtracts the rows from A and B and solves; costs O(k d^2 + d^3) for k rows, and no pass over the remaining ones.

    Args:
        statistics: sums over core and user rows, the gone ones among them.
        gone: the stored integer rows of the samples to forget.
        core: the core that they were encoded with.
        overwrite: work in the memory of `statistics`, which is then no longer to be used.

    Raises:
        ValueError: if the rows do not fit the statistics, or are more than these hold.

    Source: Golatkar et al., CVPR 2021, section 4 (the Newton step, exact on a quadratic). https://arxiv.org/abs/2012.13431
    """
    kept = subtract(statistics, gone, overwrite=overwrite)
    return Removal(kept, weights_of(core, kept))


def proved(statistics: Statistics, weights: Tensor) -> Proved:
    """State what holds for weights solved from sums that rows were only added to or subtracted from: they equal a refit, by digest."""
    return Proved(name="equal_to_refit", value=bits(statistics, weights), theorem=THEOREM, assumptions=ASSUMPTIONS)
