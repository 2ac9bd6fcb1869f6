"""How far a version is from the retrained one: in its answers, and in how soon the forgotten is learnt again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from models.audit.utility import SMALLEST
from models.linear.core import Core
from models.linear.statistics import Rows
from models.progress import Stop, check, never

MOST_STEPS = 1000
FINENESS = 0.01


@dataclass(frozen=True)
class Outputs:
    """Differences between two models' answers to the same rows, means over the rows."""

    l1: float
    """Sum over classes of |p - q|, 0 to 2."""

    kl: float
    """KL(retrained || version) in nats."""

    n: int


def outputs(version: Tensor, retrained: Tensor) -> Outputs | None:
    """Compare answers; None below 20 rows.

    Args:
        version: logits `[n, C]`.
        retrained: logits `[n, C]` on the same rows.
    """
    if len(version) < SMALLEST:
        return None
    p, q = torch.log_softmax(retrained.double(), dim=1), torch.log_softmax(version.double(), dim=1)
    apart = float((p.exp() - q.exp()).abs().sum(dim=1).mean())
    return Outputs(apart, max(0.0, float((p.exp() * (p - q)).sum(dim=1).mean())), len(version))


Loss = Callable[[Tensor], tuple[float, Tensor]]
"""From weights to the mean loss on the forgotten rows and its gradient."""


def relearn(start: Tensor, loss: Loss, goal: float, *, rate: float, most: int = MOST_STEPS, stop: Stop = never) -> int | None:
    """Count gradient steps on the forgotten rows until their loss is at most `goal`; None: not within `most` steps.

    The number means little alone: rows that are easy for everybody are back at once. So it stands beside the retrained version's.

    Args:
        start: weights of the version that learns.
        goal: the forgotten rows' loss under the version before.
        rate: of the gradient steps; the same for all that are compared.
    """
    for number in range(most + 1):
        check(stop)
        now, gradient = loss(start)
        if now <= goal:
            return number
        start = start - rate * gradient
    return None


def squared_loss(core: Core, rows: Rows) -> tuple[Loss, float]:
    """Return the forgotten rows' mean squared error in the user weights of `exact`, and a rate for `relearn`.

    Args:
        rows: the forgotten rows as integers.
    """
    return linear_loss(core.feature_scale * rows.features.double(), core.target_scale * rows.targets.double(), n=len(rows))


def linear_loss(features: Tensor, wanted: Tensor, *, n: int) -> tuple[Loss, float]:
    """Return |X w - wanted|^2 / 2n, and a rate for `relearn`.

    The rate is a hundredth of the largest at which the loss never rises: at that one, the whole way back is a step or two.

    Args:
        features: X `[N, d]` float64.
        wanted: `[N, ...]` float64.
        n: samples that these rows are of.
    """

    def loss(at: Tensor) -> tuple[float, Tensor]:
        residual = features @ at - wanted
        return float(residual.square().sum()) / (2 * n), features.T @ residual / n

    return loss, FINENESS * n / max(float(torch.linalg.matrix_norm(features, 2)) ** 2, 1e-12)
