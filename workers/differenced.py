"""The audit of whoever holds the version before and the version after: how well the forgotten are told from the kept.

It is a limit of every removal, and decides nothing. Beside it stands what the same attacker reads into the same rows when as many others
were forgotten instead: a scorer that finds some rows more striking than others does so without anybody having gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.audit import findings
from models.audit.differencing import Differencing, differencing
from models.guarantee import Measured
from models.linear.core import logits_of_rows
from models.linear.statistics import Rows, gram, merge
from models.progress import Progress
from workers.audit_figures import table
from workers.documents import document
from workers.forgotten import Forgotten, Shown, told
from workers.judging import SEED

GROUPS = 32
"""Removals of other rows that the null is taken from."""

MOST_KEPT = 5000
"""Kept rows that the forgotten are told from: of more, a random choice."""

LIMITS = (
    "This is what one who holds both versions can tell. The version before is withdrawn and its weights are destroyed, so that nobody but "
    "who took a copy of it does; answers written down before are such a copy; what is left to others is told beside. The removal itself is "
    "proved, and exact: it hides nothing by noise, so the change shows. The null is what the same attacker reads into the same rows when "
    "as many others were forgotten instead: its mean, and the largest of its removals."
)


def differenced(removal: Forgotten, progress: Progress) -> Shown:
    """Tell the forgotten from the kept by both versions' answers to them."""
    core, gone, stay = removal.core, removal.gone, removal.stay
    generator = np.random.default_rng(SEED)
    kept = torch.from_numpy(np.sort(generator.permutation(len(stay.ids))[:MOST_KEPT]))
    rows = Rows(torch.cat([gone.rows.features, stay.rows.features[kept]]), torch.cat([gone.rows.targets, stay.rows.targets[kept]]))
    labels = torch.cat([gone.labels, stay.labels[kept]])

    def answers(weights: Tensor) -> Tensor:
        return logits_of_rows(core, weights, rows, labels)

    before = answers(removal.before)
    found = differencing(before, answers(removal.after), labels, torch.arange(len(rows)) < len(gone.ids))
    whole, null = merge(removal.statistics, gram(gone.rows)), []
    for number in range(GROUPS):
        others = removal.others(generator)
        null.append(beside(before, answers(removal.without(whole, others)), labels, len(gone.ids), torch.isin(kept, others)))
        progress("", (number + 1) / GROUPS)
    return shown(found, null, findings.of_differencing(found, null), LIMITS)


def beside(before: Tensor, after: Tensor, labels: Tensor, aimed: int, others: Tensor) -> Differencing:
    """The same attack where `others` among the kept rows were forgotten instead: these are left out, the attacked rows told from the rest.

    Args:
        before, after: logits `[n, C]` of the attacked rows, then of kept ones.
        aimed: how many are attacked.
        others: `[n - aimed]` booleans.
    """
    still = torch.ones(len(labels), dtype=torch.bool)
    still[aimed:] = ~others
    return differencing(before[still], after[still], labels[still], (torch.arange(len(labels)) < aimed)[still])


def shown(found: Differencing, null: Sequence[Differencing], stated: Sequence[Measured], limits: str, *, fitted: bool = True) -> Shown:
    """What the audit leaves: its findings and limits, and the numbers."""
    said = {"limits": limits, "removals": len(null), "findings": [document(one) for one in stated]}
    return Shown(told("differencing", said) | {"differencing.csv": _csv(found, null)}, fitted=fitted)


def _csv(found: Differencing, null: Sequence[Differencing]) -> bytes:
    rows: list[Sequence[Any]] = []
    for metric, value, interval, others in (
        ("auc", found.auc, found.auc_ci95, [one.auc for one in null]),
        ("auc_without_labels", found.change_auc, found.change_ci95, [one.change_auc for one in null]),
        ("auc_by_the_version_after", found.after_auc, found.after_ci95, [one.after_auc for one in null]),
    ):
        varied = (sum(others) / len(others), max(others)) if others else ("", "")
        rows.append((metric, "", value, *interval, *varied, found.forgotten, found.kept))
    for rate in findings.rates_beside(found, null):
        value_of = "not estimable" if rate.value is None else rate.value
        rows.append(("tpr", rate.fpr, value_of, *(rate.ci95 or ("", "")), *(rate.null or ("", "")), found.forgotten, found.kept))
    return table(("metric", "fpr", "value", "low", "high", "null_mean", "null_largest", "forgotten", "kept"), rows)
