"""The one solve that turns exact sums into weights, with the same bits every time."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import lapack  # type: ignore[import-untyped, unused-ignore]
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped, unused-ignore]
from torch import Tensor

from models.linear.statistics import Statistics

THREADS = 1
"""Threads of every solve. Another number gives other last bits, so it is a constant: a certificate names it."""

STRIP = 64  # rows: 785 integers each, 400 kB

Matrix = NDArray[np.float64]


class NotPositiveDefinite(ValueError):
    """The matrix has no Cholesky factor: the ridge is too small for its range of scales, or a value is not finite."""


def solve(statistics: Statistics, *, feature_scale: float, target_scale: float, ridge: float) -> Tensor:
    """Minimise the user objective: solve (s^2 A + L I) w = s s_r B by Cholesky, all columns in one call.

    The result is a function of A, B, the two scales and L alone: equal sums give equal bits, in a fresh process and in a warm one,
    with the same LAPACK build and processor kernels. It is computed on one thread. A feature that is 0 in every row (A_jj = 0) is
    left out of the factorisation and gets the weight 0, which is what the equation gives it.

    Args:
        statistics: the sums over core and user rows.
        feature_scale: s, a power of two, so that s^2 A is exact in float64 while A is below 2^53 (2^23 rows).
        target_scale: s_r, a power of two.
        ridge: L > 0, in sum form: not multiplied by the number of rows.

    Returns:
        `[d, C]` float64, without a negative zero.

    Raises:
        NotPositiveDefinite: if there is no Cholesky factor.
    """
    right = statistics.B.numpy() * (feature_scale * target_scale)
    return torch.from_numpy(minimise(statistics.A, right, feature_scale=feature_scale, ridge=ridge))


def minimise(A: Tensor, right: Matrix, *, feature_scale: float, ridge: float) -> Matrix:
    """Solve (s^2 A + L I) w = right.

    Args:
        A: `[d, d]` int64, symmetric.
        right: `[d, C]` float64.
    """
    whole: NDArray[np.int64] = A.numpy()
    kept = np.flatnonzero(whole.diagonal() > 0)
    found = _cholesky(_system(whole, kept, scale=feature_scale * feature_scale, ridge=ridge), np.array(right[kept], order="F"))
    weights = np.zeros(right.shape)
    weights[kept] = found + 0.0  # adding 0 turns -0 into 0
    return weights


def _system(whole: NDArray[np.int64], kept: NDArray[np.intp], *, scale: float, ridge: float) -> Matrix:
    """Return scale * A + ridge * I over the kept features, `[m, m]`: the lower triangle alone, the rest is not set.

    A few rows at a time, so that what is gathered is still in the cache when it is converted: a third of the time of doing it at once.
    """
    count, every = len(kept), len(kept) == len(whole)
    system = np.empty((count, count))
    for start in range(0, count, STRIP):
        end = min(start + STRIP, count)
        strip = whole[start:end, :end] if every else whole[kept[start:end]].take(kept[:end], axis=1)
        np.multiply(strip, scale, out=system[start:end, :end])
    system.flat[:: count + 1] += ridge
    return system


def digest(weights: Tensor) -> str:
    """Return the sha256 of the weights as hex digits: all d*C values row by row, float64, little-endian, without header or padding."""
    return hashlib.sha256(np.ascontiguousarray(weights.numpy(), dtype="<f8").data).hexdigest()


def _cholesky(system: Matrix, right: Matrix) -> Matrix:
    """Overwrite `system` by its factor and return the solution; `right` is in column order.

    The transposed view is the column order that LAPACK wants, without a copy; its upper triangle, all that is read, is the lower one here.
    """
    if not len(system):
        return right
    with one_blas_thread():
        factor, failed = lapack.dpotrf(system.T, lower=0, clean=0, overwrite_a=1)
        if failed:
            raise NotPositiveDefinite(f"the matrix is not positive definite at row {failed}: give a larger ridge")
        found, _ = lapack.dpotrs(factor, right, lower=0, overwrite_b=1)
    return np.asarray(found, dtype=np.float64)


def one_blas_thread() -> AbstractContextManager[object]:
    """Hold the BLAS libraries of numpy and scipy to `THREADS` threads within the block."""
    return _pools().limit(limits=THREADS, user_api="blas")  # type: ignore[no-any-return]


@cache
def _pools() -> ThreadpoolController:
    """Find the loaded BLAS libraries: 5 ms once; limiting them then costs 40 microseconds a time."""
    return ThreadpoolController()
