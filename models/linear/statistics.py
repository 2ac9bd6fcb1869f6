"""Sums over integer rows that can be added to and subtracted from without a trace."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LARGEST = 32767
"""The largest absolute value of an integer feature or target; -32768 does not occur, so negation is safe."""

BLOCK = 2048  # rows converted to float64 at once: with 2,304 features 38 MB, and already as fast as the processor's matrix product
STRIP = 128  # rows of A updated at once, so that their products are still in the cache when they are added
FEW = 256  # rows up to which a strip of A at a time is faster than a whole triangle: with 100 rows of 2,305 features, twice
EXACT_ROWS = 1 << 20  # rows summed in float64 before they go to int64: 2^20 products below 2^30 stay below 2^53, where float64 has gaps


@dataclass(frozen=True)
class Rows:
    """Samples as integers: what is added to the statistics is what is kept, and later subtracted."""

    features: Tensor
    """`[n, d]` int16 in [-32767, 32767]; times the core's feature scale they are q(x)."""

    targets: Tensor
    """`[n, C]` int16 in [-32767, 32767]; times the core's target scale they are t - f0(x)."""

    saturated: int = 0
    """How many of all these values lay outside the range and were cut to it."""

    def __post_init__(self) -> None:
        for name, value in (("features", self.features), ("targets", self.targets)):
            if value.dtype != torch.int16 or value.dim() != 2:
                raise ValueError(f"{name} of integer rows are [n, ...] int16, not {list(value.shape)} {value.dtype}")
        if len(self.features) != len(self.targets):
            raise ValueError(f"{len(self.features)} rows of features and {len(self.targets)} of targets are not the same rows")

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True)
class Statistics:
    """All that a fit reads of the data: A = sum_core q q^T + sum_user q q^T and B = sum_user q r^T, exact integers."""

    A: Tensor
    """`[d, d]` int64, symmetric."""

    B: Tensor
    """`[d, C]` int64. Core rows enter A alone: they are curvature, not targets."""

    rows: int
    """How many user rows are in the sums."""


def zeros(d: int, classes: int) -> Statistics:
    """Return the sums over no row at all."""
    return Statistics(torch.zeros(d, d, dtype=torch.int64), torch.zeros(d, classes, dtype=torch.int64), 0)


def gram(rows: Rows) -> Statistics:
    """Sum q q^T and q r^T over the rows, exactly.

    Each product is an integer below 2^30 and each partial sum below 2^53, where every integer is a float64: a float64 matrix product
    then has nothing to round, in any order and with any number of threads.

    Returns:
        The statistics of these rows alone, all counted as user rows.
    """
    total = zeros(rows.features.shape[1], rows.targets.shape[1])
    _add_products(total, rows, sign=1)
    return Statistics(total.A, total.B, len(rows))


def curvature(features: Tensor, classes: int) -> Statistics:
    """Return the statistics of core rows: they enter A, and count as no user row.

    Args:
        features: `[n, d]` int16.
    """
    sums = gram(Rows(features, torch.zeros(len(features), classes, dtype=torch.int16)))
    return Statistics(sums.A, sums.B, 0)


def add(statistics: Statistics, rows: Rows) -> Statistics:
    """Return the statistics with these rows added."""
    return _moved(statistics, rows, sign=1)


def subtract(statistics: Statistics, rows: Rows, *, overwrite: bool = False) -> Statistics:
    """Return the statistics without these rows, bit for bit as if they had never been added.

    Args:
        overwrite: work in the memory of `statistics`, which is then no longer to be used: twice as fast, for a caller who has just
            loaded them or is done with them.

    Raises:
        ValueError: if there are more rows than the statistics hold; nothing is then overwritten.
    """
    return _moved(statistics, rows, sign=-1, overwrite=overwrite)


def merge(first: Statistics, second: Statistics) -> Statistics:
    """Return the sums over both sets of rows, which share none."""
    return Statistics(first.A + second.A, first.B + second.B, first.rows + second.rows)


def digest(statistics: Statistics) -> str:
    """Return the sha256 of A and B as hex digits.

    Layout: all d*d values of A row by row, then all d*C values of B row by row, each a signed 64-bit little-endian integer, without
    header or padding. In numpy: `sha256(A.astype("<i8").tobytes() + B.astype("<i8").tobytes())`.
    """
    state = hashlib.sha256()
    for tensor in (statistics.A, statistics.B):
        state.update(np.ascontiguousarray(tensor.numpy(), dtype="<i8").data)
    return state.hexdigest()


def _moved(statistics: Statistics, rows: Rows, *, sign: int, overwrite: bool = False) -> Statistics:
    d, classes = statistics.B.shape
    if rows.features.shape[1] != d or rows.targets.shape[1] != classes:
        found = (rows.features.shape[1], rows.targets.shape[1])
        raise ValueError(f"rows of {found[0]} features and {found[1]} targets do not fit statistics of {d} and {classes}")
    if statistics.rows + sign * len(rows) < 0:
        raise ValueError(f"{len(rows)} rows cannot be taken from {statistics.rows}")
    A = statistics.A if overwrite else statistics.A.clone()
    B = statistics.B if overwrite else statistics.B.clone()
    moved = Statistics(A, B, statistics.rows + sign * len(rows))
    if len(rows) == 1:  # the commonest request: no float64 in between
        q, r = rows.features[0].numpy().astype(np.int64), rows.targets[0].numpy().astype(np.int64)
        used = np.flatnonzero(q)
        if 2 * len(used) < d:  # raw pixels are mostly 0: a quarter of the products is less than half of the time
            some = sign * q[used, None]
            A.numpy()[np.ix_(used, used)] += some * q[used]
            B.numpy()[used] += some * r
            return moved
        for sums, right in ((A.numpy(), q), (B.numpy(), r)):
            for start in range(0, d, STRIP):
                sums[start : start + STRIP] += (sign * q[start : start + STRIP, None]) * right
    else:
        _add_products(moved, rows, sign=sign)
    return moved


def _add_products(total: Statistics, rows: Rows, *, sign: int) -> None:
    """Add (or subtract) the rows' products to the sums in place."""
    features, targets = rows.features.numpy(), rows.targets.numpy()
    if len(rows) <= FEW:
        wide, out = features.astype(np.float64), targets.astype(np.float64)
        for strip in range(0, features.shape[1], STRIP):
            some = wide[:, strip : strip + STRIP].T
            total.A.numpy()[strip : strip + STRIP] += sign * (some @ wide).astype(np.int64)
            total.B.numpy()[strip : strip + STRIP] += sign * (some @ out).astype(np.int64)
        return
    for start in range(0, len(rows), EXACT_ROWS):
        left, right = features[start : start + EXACT_ROWS], targets[start : start + EXACT_ROWS]
        for sums, products in ((total.A.numpy(), _products(left, None)), (total.B.numpy(), _products(left, right))):
            for strip in range(0, len(sums), STRIP):
                sums[strip : strip + STRIP] += sign * products[strip : strip + STRIP].astype(np.int64)


def _products(features: NDArray[np.int16], targets: NDArray[np.int16] | None) -> NDArray[np.float64]:
    """Return features^T targets, or features^T features, integers in float64; 1 to `EXACT_ROWS` rows."""
    total: NDArray[np.float64] | None = None
    for start in range(0, len(features), BLOCK):
        left = features[start : start + BLOCK].astype(np.float64)
        right = left if targets is None else targets[start : start + BLOCK].astype(np.float64)
        product = left.T @ right  # numpy sees left.T @ left and computes one triangle only
        if total is None:
            total = product
        else:
            total += product
    assert total is not None
    return total
