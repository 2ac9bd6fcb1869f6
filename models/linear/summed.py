"""The loss of few rows and few parameters through sums held in memory: many fits that differ in some rows cost milliseconds each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.linear.frozen import one_hot
from models.linear.tangent import Tangent, jacobian
from models.linear.whole import WholeCore, missed
from models.progress import Stop, check, never

LARGEST_J = 1 << 27
"""Values of rows' derivatives that are held at once: 1 GiB."""

LARGEST_H = 1 << 26
"""Values of a matrix over parameters, of which shadows hold three, and a fourth for a moment: 512 MiB each."""

_BLOCK = 1 << 22  # values of J computed at once: 32 MiB


@dataclass(frozen=True)
class Expanded:
    """Rows with their derivatives."""

    rows: Tensor
    """`[n, ...]` prepared."""

    labels: Tensor
    """`[n]` int64."""

    missed: Tensor
    """t - f0 `[n, C]` float64."""

    J: Tensor
    """`[n, C, p]` float64."""

    def __len__(self) -> int:
        return len(self.labels)

    def pick(self, places: Tensor) -> Expanded:
        """Return some of the rows, copied."""
        return Expanded(self.rows[places], self.labels[places], self.missed[places], self.J[places])

    def logits(self, core: WholeCore, w: Tensor) -> Tensor:
        """Return f0 + J w `[n, C]` float64."""
        return one_hot(self.labels, classes=core.classes, target=core.target) - self.missed + self.J @ w

    @property
    def flat(self) -> Tensor:
        """J as `[n C, p]`."""
        return self.J.flatten(0, 1)


def expand(core: WholeCore, exact: Tangent, rows: Tensor, labels: Tensor, *, stop: Stop = never) -> Expanded:
    """Compute prepared rows' derivatives.

    Args:
        exact: the core's expansion in float64.
        rows: `[n, ...]` from `prepare`; n C p at most `LARGEST_J`.
        labels: `[n]` int64.
    """
    J = torch.empty(len(rows), core.classes, exact.p, dtype=torch.float64)
    for places in torch.split(torch.arange(len(rows)), max(1, _BLOCK // (core.classes * exact.p))):
        check(stop)
        J[places] = jacobian(exact, rows[places]).view(len(places), core.classes, exact.p)
    return Expanded(rows, labels, missed(core, exact, rows, labels, stop=stop), J)


def fits(core: WholeCore, rows: int) -> bool:
    """Whether so many rows' derivatives, and matrices over the parameters, can be held."""
    p = core.tangent.p
    return rows * core.classes * p <= LARGEST_J and p * p <= LARGEST_H


def core_sum(core: WholeCore, exact: Tangent, rows: Tensor, *, stop: Stop = never) -> Tensor:
    """Return K = sum_core J_i^T J_i + L I, `[p, p]` float64, of prepared core rows, a block at a time."""
    K = core.ridge * torch.eye(exact.p, dtype=torch.float64)
    for part in torch.split(rows, max(1, _BLOCK // (core.classes * exact.p))):
        check(stop)
        J = jacobian(exact, part)
        K.addmm_(J.T, J)
    return K


@dataclass(frozen=True)
class Sums:
    """H and the right side over core rows and some user rows."""

    H: Tensor
    """`[p, p]` float64."""

    side: Tensor
    """sum_D J_i^T (t_i - f0_i) `[p]` float64."""

    counts: tuple[int, int]
    """Number of user rows and of core rows."""

    def plus(self, rows: Expanded) -> Sums:
        """Return the sums with more user rows; H is a new matrix."""
        user, core = self.counts
        return Sums(torch.addmm(self.H, rows.flat.T, rows.flat), self.side + rows.flat.T @ rows.missed.flatten(), (user + len(rows), core))

    def without(self, rows: Expanded) -> Summed:
        """Return the loss over all user rows but these."""
        return Summed(self, rows.flat, self.side - rows.flat.T @ rows.missed.flatten(), len(rows))


@dataclass(frozen=True)
class Summed:
    """The quadratic of `Sums` less some rows: no matrix is made for it."""

    sums: Sums

    gone: Tensor
    """`[b C, p]` the derivatives of the rows that are left out."""

    side: Tensor
    """The right side without them, `[p]`."""

    left_out: int

    @property
    def counts(self) -> tuple[int, int]:
        """Number of user rows and of core rows."""
        user, core = self.sums.counts
        return user - self.left_out, core

    def gradient(self, w: Tensor) -> Tensor:
        """Return H w - sum_D J_i^T (t_i - f0_i), `[p]` float64."""
        return self.curved(w) - self.side

    def rough(self, w: Tensor) -> Tensor:
        """Return the same: nothing here is quicker."""
        return self.gradient(w)

    def curved(self, v: Tensor) -> Tensor:
        """Return H v `[p]` float64."""
        return self.sums.H @ v - self.gone.T @ (self.gone @ v)
