"""How far a model's stated confidence is from how often it is right."""

from __future__ import annotations

import torch
from torch import Tensor

from models.audit.utility import SMALLEST

BINS = 15


def calibration_error(logits: Tensor, labels: Tensor, *, bins: int = BINS) -> float | None:
    """Return the expected calibration error: the mean over rows of |confidence - accuracy| in their bin of confidence.

    0 = as often right as it says. Bins are equally wide. None below 20 rows.

    Args:
        logits: `[n, C]`; of a model trained on squared error they are read through a softmax like any other's.
        labels: `[n]` int64.

    Source: Guo et al., On calibration of modern neural networks, ICML 2017, section 2. https://arxiv.org/abs/1706.04599
    """
    if len(labels) < SMALLEST:
        return None
    confidence, answer = torch.softmax(logits.double(), dim=1).max(dim=1)
    right = (answer == labels).double()
    number = (confidence * bins).ceil().long().clamp(1, bins) - 1  # bins are (low, high]
    gap = torch.zeros(bins, dtype=torch.float64).index_add_(0, number, confidence - right)
    return float(gap.abs().sum() / len(labels))
