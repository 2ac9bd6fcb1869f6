"""Forget core samples too: a new core trained without them, then the user weights fitted again on top."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from torch import Tensor

from models.data import Samples
from models.forget.refit import weights_of
from models.linear.core import TARGET, Core, core_statistics, encode, fit_core
from models.linear.statistics import Rows, Statistics, add
from models.nets import Architecture
from models.progress import Progress, Stop, never, silent
from models.train import Training


@dataclass(frozen=True)
class Recipe:
    """All that fitting a model takes beside its samples."""

    architecture: Architecture
    """The network's form."""

    training: Training
    """How the core's network is trained."""

    expected_rows: int
    """User rows expected, as declared at creation."""

    target: float = TARGET
    """a."""

    ridge: float | None = None
    """L; None chooses it on core rows, anew without the forgotten ones."""


@dataclass(frozen=True)
class Fitted:
    """A whole model."""

    core: Core
    begun: Statistics
    """The sums over the core rows alone."""

    rows: Rows
    """The user rows as integers, in the order of the samples."""

    statistics: Statistics
    weights: Tensor
    """w_u `[d, C]` float64."""


def fit(recipe: Recipe, core_samples: Samples, user_samples: Samples, *, progress: Progress = silent, stop: Stop = never) -> Fitted:
    """Fit a whole model from scratch: the core on core rows, then the user weights on user rows."""
    core = fit_core(
        recipe.architecture,
        core_samples,
        recipe.training,
        expected_rows=recipe.expected_rows,
        target=recipe.target,
        ridge=recipe.ridge,
        progress=progress,
        stop=stop,
    )
    begun = core_statistics(core, core_samples.inputs, progress=progress, stop=stop)
    rows = encode(core, user_samples.inputs, user_samples.labels, progress=progress, stop=stop)
    statistics = add(begun, rows)
    return Fitted(core, begun, rows, statistics, weights_of(core, statistics))


def forget(
    recipe: Recipe, core_samples: Samples, user_samples: Samples, gone: AbstractSet[str], *, progress: Progress = silent, stop: Stop = never
) -> Fitted:
    """Train everything again without the samples named: equal to never having had them by definition, and as slow as that.

    A network that was given as weights may have seen anything: this trains a new one, and does not use the given one.

    Args:
        recipe: the one of the first fit.
        core_samples: core rows, in their first order.
        user_samples: user rows.
        gone: sample ids to leave out, of either role; ids that neither holds are ignored.

    Raises:
        ValueError: if fewer than 2 core rows remain.
        Stopped: when `stop` answers True.
    """
    return fit(recipe, core_samples.without(gone), user_samples.without(gone), progress=progress, stop=stop)
