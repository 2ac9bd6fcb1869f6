"""Forget core samples too: a new core trained without them, then the user weights fitted again on top."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from torch import Tensor

from models.data import Samples
from models.forget.refit import bits, weights_of
from models.guarantee import SEALED, Proved
from models.linear.core import TARGET, Core, core_statistics, encode, fit_core
from models.linear.statistics import Rows, Statistics, add
from models.nets import Architecture
from models.progress import Progress, Stop, never, silent
from models.train import Training

THEOREM = (
    "A new core was trained from its recorded seed on the kept core samples alone, and user weights were fitted on it to the kept user "
    "samples alone. No forgotten sample entered the computation, so the released weights are those of retraining, and mu = 0."
)

ASSUMPTIONS = (
    "The seed, the architecture, the targets' scale a and the rule that chooses the ridge L do not depend on the forgotten samples.",
    "The digests hold for the same processor, torch and LAPACK: training in float32 differs on another.",
    SEALED,
)

ALL_THEOREM = (
    "From a network trained on the kept core samples alone, an attribute's information was removed on the kept core and user samples, from "
    "a recorded seed; user weights were then fitted on the core so made to the kept user samples. No forgotten sample entered the "
    "computation, so the released weights are those of the same computation by whoever never had them, and mu = 0."
)

WHOLE_THEOREM = (
    "A new core was trained from its recorded seed on the kept core samples alone; its scale, linear part, L, sigma and curvature were "
    "taken from the same, and user weights were solved from 0 on the kept user samples alone. No forgotten sample entered the "
    "computation: the released weights are what it gives to whoever never had them, and mu = 0."
)

WHOLE_ASSUMPTIONS = (
    "The seed, the architecture, a, and the rules that choose L and sigma do not depend on the forgotten samples.",
    "The reference is the same training with the same stopping rule, not the exact minimiser.",
    "The bits are those of the same processor and torch: training in float32 differs on another.",
)


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


def proved(statistics: Statistics, weights: Tensor) -> Proved:
    """State what holds for a model trained without the forgotten samples: it is the retrained one."""
    return Proved(name="equal_to_retrain", value=bits(statistics, weights), theorem=THEOREM, assumptions=ASSUMPTIONS)


def proved_on_all(statistics: Statistics, weights: Tensor) -> Proved:
    """State what holds for a model whose core was changed on user samples too: every forgotten sample was gone before."""
    return Proved(name="equal_to_retrain", value=bits(statistics, weights), theorem=ALL_THEOREM, assumptions=ASSUMPTIONS)


def proved_whole() -> Proved:
    """State what holds for a linearised model whose core and user weights were made without the forgotten samples."""
    return Proved(name="equal_to_retrain", value={"mu": "0"}, theorem=WHOLE_THEOREM, assumptions=WHOLE_ASSUMPTIONS)
