"""How far a version is from the retrained one: in weights, in answers, in errors, and in how soon the forgotten is learnt again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from models.audit.calibration import calibration_error
from models.audit.utility import SMALLEST, Accuracy, Utility, accuracy, utility
from models.linear.core import Core
from models.linear.statistics import Rows
from models.progress import Stop, check, never

MOST_STEPS = 1000
FINENESS = 0.01


@dataclass(frozen=True)
class Weights:
    """Euclidean distances between weight vectors."""

    to_retrained: float
    """|after - retrained|: 0 means retrained."""

    before: float
    """|before - retrained|: what there was to go."""

    @property
    def share(self) -> float:
        """What is left of the way: 0 = at the retrained weights, 1 = as far as before, more = further. 0 where there was no way to go."""
        return self.to_retrained / self.before if self.before else 0.0


@dataclass(frozen=True)
class Outputs:
    """Differences between two models' answers to the same rows, means over the rows."""

    l1: float
    """Sum over classes of |p - q|, 0 to 2."""

    kl: float
    """KL(retrained || version) in nats."""

    n: int


@dataclass(frozen=True)
class Split:
    """One group of rows, such as the forgotten, under three versions. Counts of fewer than 20 rows are withheld."""

    before: Accuracy | None
    after: Accuracy | None
    retrained: Accuracy | None
    by_class: Utility
    """Of the version after."""

    calibration: float | None
    """Expected calibration error of the version after, 0 to 1."""

    distance_before: Outputs | None
    """Between the version before and the retrained one."""

    distance_after: Outputs | None


@dataclass(frozen=True)
class Relearning:
    """Steps of training on the forgotten rows until their loss is what it was before forgetting."""

    after: int | None
    """From the version after; None: not within the steps that were tried."""

    retrained: int | None


def weights(before: Tensor, after: Tensor, retrained: Tensor) -> Weights:
    """Compare weight tensors of the same shape."""
    return Weights(float((after - retrained).double().norm()), float((before - retrained).double().norm()))


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


def split(labels: Tensor, *, before: Tensor, after: Tensor, retrained: Tensor) -> Split:
    """Compare three versions on one group of rows.

    Args:
        labels: `[n]`; of forgotten rows those that they were trained with.
        before, after, retrained: logits `[n, C]`.
    """
    return Split(
        before=accuracy(before, labels),
        after=accuracy(after, labels),
        retrained=accuracy(retrained, labels),
        by_class=utility(after, labels),
        calibration=calibration_error(after, labels),
        distance_before=outputs(before, retrained),
        distance_after=outputs(after, retrained),
    )


Loss = Callable[[Tensor], tuple[float, Tensor]]
"""From weights to the mean loss on the forgotten rows and its gradient."""


def relearn(
    starts: Mapping[str, Tensor], before: Tensor, loss: Loss, *, rate: float, most: int = MOST_STEPS, stop: Stop = never
) -> Relearning:
    """Count gradient steps on the forgotten rows until their loss is back at the level before forgetting.

    The number means little alone: rows that are easy for everybody are back at once. So it stands beside the retrained version's.

    Args:
        starts: weights of "after" and "retrained".
        before: weights of the version before, whose loss is the goal.
        rate: of the gradient steps; the same for both.
    """
    goal, _ = loss(before)
    steps: dict[str, int | None] = {}
    for name, start in starts.items():
        moving, steps[name] = start, None
        for number in range(most + 1):
            check(stop)
            now, gradient = loss(moving)
            if now <= goal:
                steps[name] = number
                break
            moving = moving - rate * gradient
    return Relearning(steps["after"], steps["retrained"])


def squared_loss(core: Core, rows: Rows) -> tuple[Loss, float]:
    """Return the forgotten rows' mean squared error in the user weights of `exact`, and a rate for `relearn`.

    The rate is a hundredth of the largest at which the loss never rises: at that one, the whole way back is a step or two.

    Args:
        rows: the forgotten rows as integers.
    """
    features, wanted = core.feature_scale * rows.features.double(), core.target_scale * rows.targets.double()
    n = len(rows)

    def loss(at: Tensor) -> tuple[float, Tensor]:
        residual = features @ at - wanted
        return float(residual.square().sum()) / (2 * n), features.T @ residual / n

    return loss, FINENESS * n / max(float(torch.linalg.matrix_norm(features, 2)) ** 2, 1e-12)
