"""Forget samples to the bit: take their integer rows out of the sums and solve again."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from models.forget.refit import weights_of
from models.guarantee import Proved
from models.linear.core import Core
from models.linear.solve import digest as weights_digest
from models.linear.statistics import Rows, Statistics, subtract
from models.linear.statistics import digest as statistics_digest

THEOREM = (
    "Integer sums have an exact inverse: A and B after subtracting the rows of the forgotten samples are the A and B of the remaining "
    "rows, bit for bit, in any order. The minimiser of the retained loss is a function of A, B and the core, computed by the same "
    "program from the same bits."
)

ASSUMPTIONS = (
    "The core, its scales, its ridge and its targets were made without any user row.",
    "The rows subtracted are the stored rows that were added.",
    "Equal weights need the same LAPACK build, processor kernels and thread count; equal sums (A, B) need nothing.",
    "The choice of which samples to forget may have followed from earlier releases: the claim is conditional on that sequence.",
    "Whoever holds the version before and the version after can compare them.",
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


def proved(removal: Removal) -> tuple[Proved, ...]:
    """State what holds for this removal: equality with refitting, by digest, and so mu = 0 without noise."""
    digests = {"statistics": statistics_digest(removal.statistics), "weights": weights_digest(removal.weights)}
    return (
        Proved(name="equal_to_refit", value=digests, theorem=THEOREM, assumptions=ASSUMPTIONS),
        Proved(
            name="mu", value=0.0, theorem="Equal outputs on both data sets are 0-Gaussian differentially private.", assumptions=ASSUMPTIONS
        ),
    )
