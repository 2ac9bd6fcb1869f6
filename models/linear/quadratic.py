"""The loss of the user weights over kept rows, a quadratic: its gradient and its curvature, a minibatch at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from models.linear.tangent import STEP, Tangent, away, batches, forward, home, normal, outputs, pulled
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


class Stored(Protocol):
    """Prepared rows that are read anew, a data block at a time, whenever they are gone through: they need not all fit into memory."""

    def __len__(self) -> int:
        """Number of rows."""

    def blocks(self) -> Iterator[Tensor]:
        """Yield the rows of each data block, `[n_b, ...]`, in the order of the blocks; a block may have no rows."""


Rows = Tensor | Stored


class Loss(Protocol):
    """A quadratic that a solver can go down, however its products are made."""

    @property
    def counts(self) -> tuple[int, int]:
        """Number of user rows and of core rows."""

    def gradient(self, w: Tensor) -> Tensor:
        """Return g at `w` `[p]`, in float64."""

    def rough(self, w: Tensor) -> Tensor:
        """Return about the same, in less time."""

    def curved(self, v: Tensor) -> Tensor:
        """Return H v `[p]`."""


@dataclass(frozen=True)
class Quadratic:
    """L_D(w) = sum_D 1/2 |f0_i + J_i w - t_i|^2 + 1/2 sum_core |J_i w|^2 + L/2 |w|^2, in sum form: L is not multiplied by anything.

    With f0 = c net + J w_core the first term is 1/2 |J_i (w_core + w) + c net_i - t_i|^2: one pass of the network does for all of it.
    """

    tangent: Tangent
    """In float64; the gradient is computed with it, which on any device TF32 and bfloat16 have no part in."""

    quick: Tangent
    """The same in the type that products H v may be computed in."""

    rows: Rows
    """`[n, ...]` prepared user rows that are kept."""

    aims: Tensor
    """t `[n, C]` float64 of these rows, less what `base` and `scale` do not bring: without them it is t - f0."""

    core: Rows
    """`[m, ...]` prepared core rows: curvature and nothing else."""

    ridge: float
    """L > 0."""

    stop: Stop = never
    passes: Passes = field(default_factory=Passes)

    cuts: tuple[tuple[int, int], ...] = ()
    """Of each data block the number of user rows and of core rows, in their order; () takes all as one block."""

    base: Tensor | None = None
    """w_core `[p]` float64, which user rows see added to w."""

    scale: float = 0.0
    """c of the network's own logits, which user rows see added to J w."""

    @property
    def missed(self) -> Tensor:
        """t - f0 `[n, C]` float64 of these rows: what J w is to be."""
        return self.aims - self._said(torch.zeros(self.tangent.p, dtype=torch.float64))

    @property
    def counts(self) -> tuple[int, int]:
        """Number of user rows and of core rows."""
        return len(self.rows), len(self.core)

    def gradient(self, w: Tensor) -> Tensor:
        """Return g = sum_D J_i^T (f0_i + J_i w - t_i) + sum_core J_i^T J_i w + L w, `[p]`, all of it in float64, block by block.

        Args:
            w: `[p]` float64.
        """
        self.passes.double += 1
        return self._summed(self.tangent, w)

    def rough(self, w: Tensor) -> Tensor:
        """Return the same with products in the quick type: where to begin, and never what is certified.

        On Fashion-MNIST (12,000 rows, 16,698 weights), where .2 sigma is the target, it lay .003 sigma from the other with one network and
        processor, and .24 sigma (.42 with channels apart) with another: then the end misses, and two passes more are made.
        """
        self.passes.single += 1
        return self._summed(self.quick, w)

    def curved(self, v: Tensor) -> Tensor:
        """Return H v = sum_D J_i^T J_i v + sum_core J_i^T J_i v + L v, `[p]`; products in the quick type, sums in float64.

        Args:
            v: `[p]` float64.
        """
        self.passes.single += 1
        size = float(v.norm()) or 1.0  # float32 products of a vector of length 1 neither overflow nor vanish
        found, unit = torch.zeros_like(v, device=self.quick.device), away(self.quick, v / size)
        for rows in (self.rows, self.core):
            for block in cut(rows):
                for part in batches(self.quick, block, self.stop):
                    found += normal(self.quick, part, unit).double()
        return self.ridge * v + size * home(found)

    def loss(self, w: Tensor) -> float:
        """Return L_D(w); what tests and figures compare."""
        gap = self._said(w) - self.aims
        held = sum(float(forward(self.tangent, block, w).square().sum()) for block in cut(self.core))
        return 0.5 * (float(gap.square().sum()) + held + self.ridge * float(w.square().sum()))

    def _summed(self, tangent: Tangent, w: Tensor) -> Tensor:
        user, core = ([pair[side] for pair in self.cuts or ((len(self.rows), len(self.core)),)] for side in (0, 1))
        blocks = zip(cut(self.rows, user), torch.split(self.aims, user), cut(self.core, core), strict=True)
        fixed: dict[str, Any] = {"base": self.base, "scale": self.scale, "stop": self.stop}
        return total(w, self.ridge, (slope(tangent, *block, w, **fixed) for block in blocks))

    def _said(self, w: Tensor) -> Tensor:
        whole = w if self.base is None else w + self.base
        return torch.cat([forward(self.tangent, block, whole) + self.scale * outputs(self.tangent, block) for block in cut(self.rows)])


def cut(rows: Rows, counts: Sequence[int] | None = None) -> Iterable[Tensor]:
    """Return the data blocks of prepared rows, in their order.

    Args:
        counts: of rows in each block, to cut a tensor by; None leaves it whole. Stored rows have blocks of their own, and need none.
    """
    if isinstance(rows, Tensor):
        return (rows,) if counts is None else torch.split(rows, list(counts))
    return rows.blocks()


def slope(
    tangent: Tangent,
    rows: Tensor,
    aims: Tensor,
    core: Tensor,
    w: Tensor,
    *,
    base: Tensor | None = None,
    scale: float = 0.0,
    stop: Stop = never,
) -> Tensor:
    """Return sum_D J_i^T (J_i (base + w) + c net_i - aims_i) + sum_core J_i^T J_i w, `[p]` float64: the part of one data block.

    Args:
        rows: `[n, ...]` prepared user rows of the block; `aims` is `[n, C]`.
        core: `[m, ...]` prepared core rows of the block.
        w: `[p]` float64.
        base: `[p]` float64; None is 0.
        scale: c.
    """
    there, moved = away(tangent, w), bool(w.any())
    whole = there if base is None else away(tangent, w + base)
    found = torch.zeros_like(there, dtype=torch.float64)
    for number, part in enumerate(batches(tangent, rows, stop)):
        aim = aims[number * STEP : (number + 1) * STEP]
        still = not moved and base is None and not scale
        found += pulled(tangent, part, -aim) if still else normal(tangent, part, whole, aim, scale=scale)
    for part in batches(tangent, core, stop) if moved else ():
        found += normal(tangent, part, there)
    return home(found)


def total(w: Tensor, ridge: float, slopes: Iterable[Tensor]) -> Tensor:
    """Return the gradient from what each data block adds to it.

    Floating-point sums depend on their order. Blocks are added in theirs, whoever computed them and when: the bits are the same.

    Args:
        slopes: `[p]` float64 of each block, in the order of the blocks.
    """
    found = ridge * w
    for part in slopes:
        found += part
    return found


def rho(loss: Loss) -> float:
    """Return how many rows, core and user, there are for each core row; 1 without core rows."""
    user, core = loss.counts
    return 1 + user / core if core else 1.0
