"""A low-rank part of the core's curvature that never exceeds it: preconditioner, shape of the noise, and bound, all in closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.special import ndtri  # type: ignore[import-untyped, unused-ignore]
from torch import Tensor

from models.linear.tangent import Tangent, jacobian
from models.progress import Progress, Stop, check, never, silent

RANK = 3072
"""Directions kept at most, unless asked for. On Fashion-MNIST with 167 core and 835 user rows and 1,440 of a smaller convnet's weights
(L = 2.5, dense float64) forgetting 84 rows took 24 passes at rank p / 8, 23 with a second pass over the core rows, 17 at 3 p / 16 and 18
at p / 4, where all of the core's curvature took 19: more of it shows nothing about user rows."""

LARGEST = 1 << 27  # values of U, unless asked for: 1 GiB

PHASE = "measure core"
LARGEST_BLOCK = 1 << 24  # values of J at once: 128 MiB in float64

RandomBytes = Callable[[int], bytes]
"""Gives that many bytes from a cryptographic generator."""


@dataclass(frozen=True)
class Curvature:
    """M = U diag(values) U^T + L I with M <= K = sum_core J_i^T J_i + L I, and so M <= H_r, whatever the user rows are."""

    U: Tensor
    """`[p, r]` float64, orthonormal."""

    values: Tensor
    """`[r]` float64 >= 0, ascending."""

    ridge: float
    """L."""

    def flat(self) -> Curvature:
        """Return M = L I, the shape of isotropic noise."""
        return Curvature(self.U[:, :0], self.values[:0], self.ridge)

    def along(self, vector: Tensor) -> Tensor:
        """Return U^T v `[r]`, which all that follows shares."""
        return self.U.T @ vector

    def bound(self, gradient: Tensor, along: Tensor | None = None) -> float:
        """Return g^T M^-1 g, which is at least g^T H_r^-1 g and e^T M e for e = H_r^-1 g, the distance to the minimiser.

        Args:
            gradient: g `[p]` float64.
            along: U^T g where it is known.
        """
        c = self.along(gradient) if along is None else along
        inside = float((c.square() / (self.values + self.ridge)).sum())
        outside = max(0.0, float(gradient @ gradient) - float(c @ c))
        return inside + outside / self.ridge

    def product(self, a: Tensor, b: Tensor, along_a: Tensor, along_b: Tensor) -> float:
        """Return a^T M^-1 b of two vectors `[p]`, given U^T a and U^T b."""
        inside = float((along_a * along_b / (self.values + self.ridge)).sum())
        return inside + (float(a @ b) - float(along_a @ along_b)) / self.ridge

    def draw(self, random_bytes: RandomBytes) -> Tensor:
        """Draw z ~ N(0, M^-1), `[p]` float64. A draw is used once and destroyed.

        z = U diag((values + L)^-1/2 - L^-1/2) U^T e + L^-1/2 e with e standard normal: exact, since U is orthonormal.
        """
        e = standard_normal(len(self.U), random_bytes)
        low = self.ridge**-0.5
        drawn: Tensor = low * e + self.U @ (((self.values + self.ridge).rsqrt() - low) * self.along(e))
        return drawn


def standard_normal(count: int, random_bytes: RandomBytes) -> Tensor:
    """Return independent standard normal numbers, `[count]` float64, from 52 random bits each by the inverse of their distribution."""
    bits = torch.frombuffer(bytearray(random_bytes(8 * count)), dtype=torch.int64)
    uniform = ((bits >> 12) & ((1 << 52) - 1)).double()
    normal: Tensor = torch.from_numpy(ndtri(((uniform + 0.5) * 2.0**-52).numpy()))
    return normal


@dataclass(frozen=True)
class Preconditioner:
    """P^-1 v = U (rho values + shift)^-1 U^T v + (v - U U^T v) / shift: the curvature scaled to the number of rows that are kept."""

    curvature: Curvature
    rho: float
    """Kept rows, core and user, for each core row."""

    @property
    def shift(self) -> float:
        """What stands for the curvature outside of U: the ridge and the smallest value kept, which the others lie below."""
        return self.curvature.ridge + self.rho * float(self.curvature.values[0]) if len(self.curvature.values) else self.curvature.ridge

    def apply(self, vector: Tensor, along: Tensor) -> Tensor:
        """Return P^-1 v `[p]`; `along` is U^T v."""
        shift, values = self.shift, self.curvature.values
        return vector / shift + self.curvature.U @ ((1 / (self.rho * values + shift) - 1 / shift) * along)


def rank_of(p: int) -> int:
    """Return how many directions of p parameters are kept where nobody asked for a number."""
    return min(RANK, max(1, LARGEST // p))


def measure(
    tangent: Tangent, rows: Tensor, *, ridge: float, rank: int, seed: int = 0, progress: Progress = silent, stop: Stop = never
) -> Curvature:
    """Approximate sum_i J_i^T J_i over core rows from below by its randomised Nystroem approximation, in float64.

    With G the sum, N `[p, r]` random and T an orthonormal basis of G N:  G T (T^T G T)^-1 T^T G <= G.  Two passes over the rows: with N
    in place of T one would do, but the smaller half of the directions found would be far from those of G. Holds six matrices `[p, r]`.

    Args:
        tangent: in float64.
        rows: `[n, ...]` prepared core rows.
        rank: r; cut to what p and the rows can have.

    Source: Frangella, Tropp & Udell, 2021, algorithm 2.1; one power iteration: Halko, Martinsson & Tropp, 2011, section 4.5.
    https://arxiv.org/abs/2110.02820 https://arxiv.org/abs/0909.4061
    """
    rank = min(rank, tangent.p, len(rows) * tangent.classes)
    if not rank:
        return Curvature(torch.zeros(tangent.p, 0, dtype=torch.float64), torch.zeros(0, dtype=torch.float64), ridge)
    generator = torch.Generator().manual_seed(seed)
    test = torch.randn(tangent.p, rank, generator=generator, dtype=torch.float64)
    test = torch.linalg.qr(_times(tangent, rows, test, lambda done: progress(PHASE, 0.4 * done), stop))[0]
    sketch = _times(tangent, rows, test, lambda done: progress(PHASE, 0.4 + 0.4 * done), stop)
    nudge = torch.finfo(torch.float64).eps * float(torch.linalg.matrix_norm(sketch))
    sketch += nudge * test  # keeps the factor below positive; taken off the values again, so M stays below K
    inner = test.T @ sketch
    factor = torch.linalg.cholesky((inner + inner.T) / 2)
    root = torch.linalg.solve_triangular(factor.T, sketch, upper=True, left=False)  # root root^T approximates G + nudge
    Q, R = torch.linalg.qr(root)
    values, vectors = torch.linalg.eigh(R @ R.T)
    progress(PHASE, 1.0)
    return Curvature(Q @ vectors, (values - nudge).clamp_min(0), ridge)


def mean_square(tangent: Tangent, rows: Tensor, *, stop: Stop = never) -> float:
    """Return the mean squared length of a row of J, the gradient of one logit by the linearised parameters; 0 without rows.

    Args:
        rows: `[n, ...]` prepared rows.
    """
    total = 0.0
    for part in _blocks(tangent, rows):
        check(stop)
        total += float(jacobian(tangent, part).double().square().sum())
    return total / max(1, len(rows) * tangent.classes)


def _blocks(tangent: Tangent, rows: Tensor) -> tuple[Tensor, ...]:
    return torch.split(rows, max(1, LARGEST_BLOCK // (tangent.classes * tangent.p)))


def _times(tangent: Tangent, rows: Tensor, matrix: Tensor, progress: Callable[[float], None], stop: Stop) -> Tensor:
    """Return sum_i J_i^T J_i times a matrix `[p, r]`, a block of rows of J at a time."""
    total, done = torch.zeros_like(matrix), 0
    for part in _blocks(tangent, rows):
        check(stop)
        J = jacobian(tangent, part)
        total.addmm_(J.T, J @ matrix)  # in place: at half a million parameters the sum is slower than the product
        done += len(part)
        progress(done / len(rows))
    return total
