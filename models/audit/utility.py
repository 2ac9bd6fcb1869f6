"""How often the model is right: counts for groups large enough that no single person shows."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

SMALLEST = 20
"""Rows below which a count is withheld: one person's accuracy is personal data."""

Z95 = 1.959963984540054  # the normal distribution's 97.5 % point


@dataclass(frozen=True)
class Accuracy:
    """How many of a group of rows were classified rightly."""

    correct: int
    """Rows whose largest logit is their label's."""

    n: int
    """Rows in the group, at least 20."""

    @property
    def value(self) -> float:
        """correct / n."""
        return self.correct / self.n

    @property
    def ci95(self) -> tuple[float, float]:
        """The Wilson 95 % interval of the accuracy on new rows of the same kind."""
        return wilson(self.correct, self.n)


@dataclass(frozen=True)
class Utility:
    """Accuracy on one split of the rows."""

    overall: Accuracy | None
    """None where the split has fewer than 20 rows."""

    by_class: tuple[Accuracy | None, ...]
    """For each declared class; None where it is withheld."""


def utility(logits: Tensor, labels: Tensor) -> Utility:
    """Count right answers over a split and in each class, withholding what would show a few people.

    A class with fewer than 20 rows is withheld. Where the withheld classes together have some, but fewer than 20 rows, subtraction
    from the total would show them: the smallest published class is then withheld as well.

    Args:
        logits: `[n, C]`; of equal largest logits the first class counts as the answer.
        labels: `[n]` int64.
    """
    classes = logits.shape[1]
    right = logits.argmax(dim=1) == labels
    n = torch.bincount(labels, minlength=classes).tolist()
    correct = torch.bincount(labels[right], minlength=classes).tolist()
    published = {label for label in range(classes) if n[label] >= SMALLEST}
    while 0 < len(labels) - sum(n[label] for label in published) < SMALLEST and published:
        published.remove(min(published, key=lambda label: (n[label], label)))
    by_class = tuple(Accuracy(correct[label], n[label]) if label in published else None for label in range(classes))
    return Utility(accuracy(logits, labels), by_class)


def accuracy(logits: Tensor, labels: Tensor) -> Accuracy | None:
    """Count right answers; None below 20 rows.

    Args:
        logits: `[n, C]`.
        labels: `[n]` int64.
    """
    if len(labels) < SMALLEST:
        return None
    return Accuracy(int((logits.argmax(dim=1) == labels).sum()), len(labels))


def wilson(correct: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a proportion that holds its level for small n and near 0 and 1.

    Args:
        correct: 0 to n.
        n: at least 1.

    Source: E. B. Wilson, JASA 22, 1927, pages 209-212.
    """
    share, shrink = correct / n, 1 + Z95**2 / n
    middle = (share + Z95**2 / (2 * n)) / shrink
    half = Z95 * sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n)) / shrink
    return max(0.0, middle - half), min(1.0, middle + half)
