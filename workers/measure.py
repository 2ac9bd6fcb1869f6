"""Accuracy of two versions on rows that are kept as integers."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from models.audit.utility import Accuracy, accuracy
from models.linear.core import Core, logits_of_rows
from workers.artifacts import NamedRows


def accuracy_of(core: Core, before: Tensor | None, after: Tensor, rows: NamedRows | None, *, split: str) -> list[dict[str, Any]]:
    """Count right answers before and after on one split, or nothing where there are no rows.

    Args:
        before: `[d, C]`; None where the rows were encoded by another core than the old weights belong to.

    Returns:
        one entry of the certificate's `utility`. `retrained` repeats `after`: the proved equality says that they are the same weights.
    """
    if rows is None or not rows.ids:
        return []
    found = [
        cell(accuracy(logits_of_rows(core, w, rows.rows, rows.labels), rows.labels)) if w is not None else "withheld"
        for w in (before, after)
    ]
    return [{"metric": "accuracy", "split": split, "before": found[0], "after": found[1], "retrained": found[1]}]


def cell(measured: Accuracy | None) -> Any:
    if measured is None:
        return "withheld"
    low, high = measured.ci95
    return {"correct": measured.correct, "n": measured.n, "ci95": [f"{low:.6f}", f"{high:.6f}"]}
