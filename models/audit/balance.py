"""The population in which every cell (label, value) weighs the same, and limits of means over it."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

FEWEST = 5
"""Test rows below which a cell (label, value) is left out, and named: a mean over fewer rows has no usable interval."""

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


@dataclass(frozen=True)
class Limits:
    """Estimates with their 95 % limits, one entry a column."""

    estimate: Matrix
    ci95: tuple[tuple[float, float], ...]
    upper: Matrix
    """One-sided, simultaneous over the columns."""
    lower: Matrix


def limits(gains: Matrix, population: Population, *, seed: int, resamples: int) -> Limits:
    """Bound the population means of each column of row scores by a bootstrap within cells.

    In each cell one row fewer than it has is drawn: the resampled variance is then unbiased in small cells too. The simultaneous
    limits take the 95 % point of the largest deviation over the columns, each in units of its standard error.

    Args:
        gains: `[n, P]`.

    Source: Rao & Wu, Resampling inference with complex survey data, JASA 83, 1988, section 2.
    """
    generator = np.random.default_rng(seed)
    estimate: Matrix = population.weights @ gains
    drawn = np.zeros((resamples, gains.shape[1]))
    for rows in population.cells:
        m = len(rows) - 1
        for some in np.array_split(np.arange(resamples), max(1, resamples * m // 2_000_000)):
            chosen = rows[generator.integers(0, len(rows), size=(len(some), m))]
            drawn[some] += np.stack([column[chosen].mean(axis=1) for column in gains.T], axis=1) / len(population.cells)
    error = drawn.std(axis=0)
    units = np.where(error > 0, error, 1.0)
    deviation = (drawn - estimate) / units
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    upper = estimate + np.quantile((-deviation).max(axis=1), 0.95) * error
    lower = estimate - np.quantile(deviation.max(axis=1), 0.95) * error
    return Limits(estimate, tuple(zip(low.tolist(), high.tolist(), strict=True)), upper, lower)
