"""The reference: the user weights that the remaining rows alone give, on the same core. Every other method is compared with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from models.data import Samples
from models.linear.core import Core, core_statistics, encode
from models.linear.solve import digest as weights_digest
from models.linear.solve import solve
from models.linear.statistics import Rows, Statistics, add
from models.linear.statistics import digest as statistics_digest
from models.progress import Progress, Stop, check, never, silent


@dataclass(frozen=True)
class Refit:
    """User weights and the sums that they follow from."""

    statistics: Statistics
    """A over core and user rows, B over user rows."""

    weights: Tensor
    """w_u `[d, C]` float64, the minimiser of L_D."""


def refit(core: Core, begun: Statistics, blocks: Iterable[Rows], *, stop: Stop = never) -> Refit:
    """Fit the user weights to integer rows, from the sums over the core rows on.

    Minimises  L_D(w) = sum_D 1/2 |f0 + s q^T w - t|^2 + 1/2 sum_core |s q^T w|^2 + L/2 |w|^2.  No row gives w = 0.

    Args:
        core: with f0, s, s_r and L.
        begun: `core_statistics`, the sums without any user row.
        blocks: user rows in any order and any division: the sums are integers.
    """
    statistics = begun
    for rows in blocks:
        check(stop)
        statistics = add(statistics, rows)
    return Refit(statistics, weights_of(core, statistics))


def refit_samples(core: Core, core_samples: Samples, user_samples: Samples, *, progress: Progress = silent, stop: Stop = never) -> Refit:
    """Fit the user weights to raw samples: encode core and user rows again, then `refit`. What `expunge reproduce` compares with."""
    begun = core_statistics(core, core_samples.inputs, progress=progress, stop=stop)
    return refit(core, begun, [encode(core, user_samples.inputs, user_samples.labels, progress=progress, stop=stop)], stop=stop)


def weights_of(core: Core, statistics: Statistics) -> Tensor:
    """Return the user weights that the sums give on this core, `[d, C]` float64."""
    return solve(statistics, feature_scale=core.feature_scale, target_scale=core.target_scale, ridge=core.ridge)


def bits(statistics: Statistics, weights: Tensor) -> dict[str, str]:
    """Name a result by its bits, which is what a proved equality claims; mu = 0 says that nothing tells equal bits apart."""
    return {"statistics": statistics_digest(statistics), "weightValues": weights_digest(weights), "mu": "0"}
