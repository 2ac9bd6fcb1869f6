"""The attacker who holds the version before and the version after: how well the forgotten are told from the kept by what changed."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
from torch import Tensor

from models.audit.membership import FPRS, POOLED, Matrix, Rate, auc, phi, true_positive_rate
from models.audit.utility import Z95, wilson


@dataclass(frozen=True)
class Differencing:
    """What the differences between two versions give away of who was forgotten. 1/2 = nothing, 1 = everybody."""

    auc: float
    """Probability that a forgotten row's log odds of its label fell by more than a kept row's: for an attacker who knows the labels."""

    auc_ci95: tuple[float, float]

    change_auc: float
    """The same by the size of the change of the answers alone: for an attacker who has only the inputs."""

    change_ci95: tuple[float, float]

    after_auc: float
    """Probability that the version after alone gives a forgotten row's label less log odds than a kept row's: for an attacker who knows
    the labels and came after the version before was withdrawn."""

    after_ci95: tuple[float, float]

    rates: tuple[Rate, ...]
    """True-positive rates of the attacker who knows the labels."""

    forgotten: int
    kept: int


def differencing(before: Tensor, after: Tensor, labels: Tensor, forgotten: Tensor) -> Differencing:
    """Tell forgotten rows from kept ones by f_before - f_after.

    Removal has to change what was forgotten, so this succeeds on every honest removal; only that nobody holds both versions (the version
    before is withdrawn), or noise in the released weights, stands against it.

    Args:
        before: logits `[n, C]` of the version before.
        after: logits `[n, C]` of the version after, as released.
        labels: `[n]` int64, as trained.
        forgotten: `[n]` booleans; the others are kept rows.

    Raises:
        ValueError: if there is no forgotten or no kept row.
    """
    if not bool(forgotten.any()) or bool(forgotten.all()):
        raise ValueError("telling the forgotten from the kept needs rows of both")
    fell = (phi(before, labels) - phi(after, labels)).numpy()
    change = (torch.softmax(before.double(), 1) - torch.softmax(after.double(), 1)).abs().sum(1).numpy()
    gone = forgotten.numpy()
    found, interval = _with_interval(fell[gone], fell[~gone])
    size, size_interval = _with_interval(change[gone], change[~gone])
    odds = -phi(after, labels).numpy()
    late, late_interval = _with_interval(odds[gone], odds[~gone])
    rates = tuple(_rate(fell[gone], fell[~gone], fpr) for fpr in FPRS)
    return Differencing(found, interval, size, size_interval, late, late_interval, rates, int(gone.sum()), int((~gone).sum()))


def _with_interval(members: Matrix, others: Matrix) -> tuple[float, tuple[float, float]]:
    """Return the AUC and its 95 % interval, from the variances of each row's share of wins.

    Where every pair is won (or lost) these vanish; the interval is then that of as many wins of one as the smaller group has rows.

    Source: DeLong, DeLong & Clarke-Pearson, Biometrics 44, 1988, pages 837-845.
    """
    value, few = auc(members, others), min(len(members), len(others))
    if value in (0.0, 1.0) or few < 2:
        return value, wilson(round(value * few), few)
    variance = sum(wins.var(ddof=1) / len(wins) for wins in (_shares(members, others), _shares(others, members)))
    half = Z95 * sqrt(variance)
    return value, (max(0.0, value - half), min(1.0, value + half))


def _shares(rows: Matrix, others: Matrix) -> Matrix:
    ordered = np.sort(others)
    found: Matrix = (np.searchsorted(ordered, rows, "left") + np.searchsorted(ordered, rows, "right")) / (2 * len(ordered))
    return found


def _rate(members: Matrix, others: Matrix, fpr: float) -> Rate:
    if len(others) < POOLED:
        return Rate(fpr, None, None)
    value = true_positive_rate(members, others, fpr)
    return Rate(fpr, value, wilson(round(value * len(members)), len(members)))
