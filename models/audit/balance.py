"""The population in which every cell (label, value) weighs the same, and limits of means over it."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri  # type: ignore[import-untyped, unused-ignore]
from torch import Tensor

FEWEST = 5
"""Test rows below which a cell (label, value) is left out, and named: a mean over fewer rows has no usable interval."""

LEVEL = 0.95
MOST_RESAMPLES = 50_000
STILL = 1e-9
"""A standard error below this is rounding: a reader that always answers with the prior has no other. Measured in its own units, the
rounding of the estimate would be a deviation of any size, and widen every other reader's limit with it."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Population:
    """The judged population: every cell (label, value) with enough test rows weighs the same."""

    cells: tuple[NDArray[np.int64], ...]
    """Row numbers of the test rows in each cell."""

    weights: Matrix
    """`[n]`, summing to 1; 0 for the rows left out."""

    shares: Matrix
    """`[C, K]` shares of the cells."""

    left_out: tuple[tuple[int, int, int], ...]

    @property
    def n(self) -> int:
        """(sum w)^2 / sum w^2, rounded down."""
        return floor(1 / float(np.square(self.weights).sum()) + 1e-9)

    @property
    def marginal(self) -> Matrix:
        """`[K]` shares of the values."""
        found: Matrix = self.shares.sum(axis=0)
        return found

    @property
    def entropy(self) -> float:
        """H(v) in nats."""
        return entropy(self.marginal)

    @property
    def conditional_entropy(self) -> float:
        """H(v | y) in nats."""
        return entropy(self.shares) - entropy(self.shares.sum(axis=1))


def entropy(shares: Matrix) -> float:
    """Return -sum p ln p in nats over all entries."""
    some = shares[shares > 0]
    return max(0.0, float(-(some * np.log(some)).sum()))


def balanced(values_of: Tensor, labels: Tensor, *, values: int, classes: int) -> Population:
    """Weigh test rows so that every cell (label, value) with at least 5 of them counts the same.

    Raises:
        ValueError: if fewer than two values remain.
    """
    cell = (labels * values + values_of).numpy()
    weights, shares = np.zeros(len(cell)), np.zeros((classes, values))
    rows = [np.flatnonzero(cell == number) for number in range(classes * values)]
    kept = [number for number, some in enumerate(rows) if len(some) >= FEWEST]
    if len({number % values for number in kept}) < 2:
        raise ValueError(f"fewer than two values have a label with at least {FEWEST} test rows: nothing can be told apart")
    for number in kept:
        weights[rows[number]] = 1 / (len(kept) * len(rows[number]))
        shares[divmod(number, values)] = 1 / len(kept)
    judged = {number // values for number in range(len(rows)) if len(rows[number])}
    missing = [number for number in range(len(rows)) if number // values in judged and number not in kept]
    left_out = tuple((*divmod(number, values), len(rows[number])) for number in missing)
    return Population(tuple(rows[number] for number in kept), weights, shares, left_out)


def level_after(earlier: int) -> float:
    """Return the level of an upper limit after so many earlier looks at the same rows: 1 - .05 / (k (k + 1)) for the k-th look.

    What the looks may err by sums to .05 however many there are: with 95 % confidence no limit that was ever taken on these rows is too
    low, whatever made somebody look again. (.05 / k, the same share for each of the looks so far, would sum to more with every look.)

    Source: Lan & DeMets, Discrete sequential boundaries for clinical trials, Biometrika 70, 1983 (spending); the shares are ours.
    """
    return 1 - (1 - LEVEL) / ((earlier + 1) * (earlier + 2))


@dataclass(frozen=True)
class Limits:
    """Estimates with their limits, one entry a column."""

    estimate: Matrix
    ci95: tuple[tuple[float, float], ...]
    upper: Matrix
    """One-sided, at the level asked for, simultaneous over the columns."""
    lower: Matrix
    """One-sided, 95 %, simultaneous over the columns."""


def limits(gains: Matrix, population: Population, *, seed: int, resamples: int, level: float = LEVEL) -> Limits:
    """Bound the population means of each column of row scores by a bootstrap within cells.

    In each cell one row fewer than it has is drawn: the resampled variance is then unbiased in small cells too. The simultaneous
    limits take a point of the largest deviation over the columns, each in units of its standard error.

    Args:
        gains: `[n, P]`.
        resamples: at 95 %; a higher level draws so many more that as many lie beyond its point, up to `MOST_RESAMPLES`. From there on the
            point moves out as that of P normal deviations does.
        level: of `upper`.

    Source: Rao & Wu, Resampling inference with complex survey data, JASA 83, 1988, section 2.
    """
    generator = np.random.default_rng(seed)
    resamples, seen = _counted(resamples, level)
    estimate: Matrix = population.weights @ gains
    drawn = np.zeros((resamples, gains.shape[1]))
    for rows in population.cells:
        m = len(rows) - 1
        for some in np.array_split(np.arange(resamples), max(1, resamples * m // 2_000_000)):
            chosen = rows[generator.integers(0, len(rows), size=(len(some), m))]
            drawn[some] += np.stack([column[chosen].mean(axis=1) for column in gains.T], axis=1) / len(population.cells)
    error = drawn.std(axis=0)
    still = error < STILL
    deviation = np.where(still, 0.0, drawn - estimate) / np.where(still, 1.0, error)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    beyond = _normal(level, gains.shape[1]) / _normal(seen, gains.shape[1])
    upper = estimate + beyond * np.quantile((-deviation).max(axis=1), seen) * error
    lower = estimate - np.quantile(deviation.max(axis=1), LEVEL) * error
    return Limits(estimate, tuple(zip(low.tolist(), high.tolist(), strict=True)), upper, lower)


def _counted(resamples: int, level: float) -> tuple[int, float]:
    """Return how many resamples to draw, and the highest level up to `level` whose point they show."""
    needed = resamples * (1 - LEVEL) / (1 - level)
    count = max(resamples, min(ceil(needed - 1e-6), MOST_RESAMPLES))
    return count, min(level, 1 - (1 - LEVEL) * resamples / count)


def _normal(level: float, columns: int) -> float:
    """The point that the largest of so many independent normal deviations stays below at a level."""
    return float(ndtri(level ** (1 / columns)))
