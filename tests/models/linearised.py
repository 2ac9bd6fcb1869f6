"""A small linearised network on digits with all of its Jacobian in memory: the second opinion, dense and in float64."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from stand_in import QUICK, digits
from torch import Tensor

from models.data import Samples
from models.forget.newton import forget
from models.linear.curvature import Curvature
from models.linear.quadratic import Quadratic
from models.linear.tangent import Tangent, jacobian, prepare
from models.linear.whole import WholeCore, quadratic
from models.linear.whole_fit import fit_whole
from models.nets import Architecture

NET = Architecture(name="convnet", input_shape=(1, 8, 8), classes=10, hidden=(6, 6, 8, 8))
GONE = 30


@dataclass(frozen=True)
class Linearised:
    """A fitted core; 300 user digits, of which the first 30 are mislabelled and will be forgotten."""

    core: WholeCore
    curvature: Curvature
    core_samples: Samples
    user: Samples
    true_labels: Tensor
    core_rows: Tensor
    rows: Tensor
    J: Tensor
    """`[300 * C, p]` float64."""

    J_core: Tensor

    gram: Tensor
    """sum of J^T J over core and user rows, `[p, p]`."""

    found: dict[tuple[int, float | None], Tensor]
    """Minimisers computed so far."""

    def loss(self, first: int = 0, *, tangent: Tangent | None = None) -> Quadratic:
        """The loss over the user rows from `first` on, as the service makes it; `tangent` for the quick products."""
        found = quadratic(self.core, self.rows[first:], self.user.labels[first:], self.core_rows)
        return found if tangent is None else Quadratic(found.tangent, tangent, found.rows, found.missed, found.core, found.ridge)

    def hessian(self, first: int = 0, *, ridge: float | None = None) -> Tensor:
        """H over the user rows from `first` on."""
        gram = self.gram - self.J[: first * 10].T @ self.J[: first * 10]
        return gram + (self.core.ridge if ridge is None else ridge) * torch.eye(len(gram), dtype=torch.float64)

    def minimiser(self, first: int = 0, *, ridge: float | None = None) -> Tensor:
        """The exact minimiser over the rows from `first` on, by one dense factorisation."""
        if (first, ridge) not in self.found:
            side = self.J[first * 10 :].T @ self.loss(first).missed.reshape(-1)
            factor = torch.linalg.cholesky(self.hessian(first, ridge=ridge))
            self.found[first, ridge] = torch.cholesky_solve(side[:, None], factor)[:, 0]
        return self.found[first, ridge]


def make_linearised() -> Linearised:
    torch.set_num_threads(1)
    core_samples, user = digits(0, 400, "core"), digits(400, 700, "user")
    labels = user.labels.clone()
    labels[:GONE] = (labels[:GONE] + 1 + torch.arange(GONE) % 9) % 10
    poisoned = Samples(user.inputs, labels, user.ids)
    fit = fit_whole(NET, core_samples, QUICK, layers=None, random_bytes=os.urandom, ridge=3.0, sigma=0.1, rank=256)
    exact = fit.core.tangent.double()
    core_rows, rows = prepare(fit.core.tangent, core_samples.inputs), prepare(fit.core.tangent, user.inputs)
    J, J_core = jacobian(exact, rows), jacobian(exact, core_rows)
    gram = J.T @ J + J_core.T @ J_core
    return Linearised(fit.core, fit.curvature, core_samples, poisoned, user.labels, core_rows, rows, J, J_core, gram, {})


def solved(problem: Linearised, loss: Quadratic, start: Tensor, *, target: float, method: str = "cg", most: int = 400) -> Tensor:
    """w~ of a removal: what would be destroyed after the noise is drawn."""
    release = forget(loss, start, problem.curvature, method=method, sigma=1.0, mu_max=target, most=most, random_bytes=os.urandom)
    return release.descent.w
