"""The loss of the user weights over kept rows, a quadratic: its gradient and its curvature, a minibatch at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from models.linear.tangent import STEP, Tangent, batches, forward, pulled, pushed
from models.progress import Stop, never


@dataclass
class Passes:
    """How often all kept rows, core rows with them, were gone through."""

    single: int = 0
    """In the precision of the products."""

    double: int = 0
    """In float64."""

    @property
    def total(self) -> int:
        return self.single + self.double


@dataclass(frozen=True)
class Quadratic:
    """L_D(w) = sum_D 1/2 |f0_i + J_i w - t_i|^2 + 1/2 sum_core |J_i w|^2 + L/2 |w|^2, in sum form: L is not multiplied by anything."""

    tangent: Tangent
    """In float64; the gradient is computed with it."""

    quick: Tangent
    """The same in the type that products H v may be computed in."""

    rows: Tensor
    """`[n, ...]` prepared user rows that are kept."""

    missed: Tensor
    """t - f0 `[n, C]` float64 of these rows."""

    core: Tensor
    """`[m, ...]` prepared core rows: curvature and nothing else."""

    ridge: float
    """L > 0."""

    stop: Stop = never
    passes: Passes = field(default_factory=Passes)

    def gradient(self, w: Tensor) -> Tensor:
        """Return g = sum_D J_i^T (J_i w - missed_i) + sum_core J_i^T J_i w + L w, `[p]`, all of it in float64.

        Args:
            w: `[p]` float64.
        """
        self.passes.double += 1
        total = self.ridge * w
        for number, part in enumerate(batches(self.tangent, self.rows, self.stop)):
            gap = -self.missed[number * STEP : (number + 1) * STEP]
            total += pulled(self.tangent, part, pushed(self.tangent, part, w) + gap if bool(w.any()) else gap)
        for part in batches(self.tangent, self.core, self.stop) if bool(w.any()) else ():
            total += pulled(self.tangent, part, pushed(self.tangent, part, w))
        return total

    def curved(self, v: Tensor) -> Tensor:
        """Return H v = sum_D J_i^T J_i v + sum_core J_i^T J_i v + L v, `[p]`; products in the quick type, sums in float64.

        Args:
            v: `[p]` float64.
        """
        self.passes.single += 1
        total = self.ridge * v
        size = float(v.norm()) or 1.0  # float32 products of a vector of length 1 neither overflow nor vanish
        for rows in (self.rows, self.core):
            for part in batches(self.quick, rows, self.stop):
                total += size * pulled(self.quick, part, pushed(self.quick, part, v / size)).double()
        return total

    def loss(self, w: Tensor) -> float:
        """Return L_D(w); what tests and figures compare."""
        gap = forward(self.tangent, self.rows, w) - self.missed
        return 0.5 * float(gap.square().sum() + forward(self.tangent, self.core, w).square().sum() + self.ridge * w.square().sum())


def rho(quadratic: Quadratic) -> float:
    """Return how many rows, core and user, there are for each core row; 1 without core rows."""
    return 1 + len(quadratic.rows) / len(quadratic.core) if len(quadratic.core) else 1.0
