"""How differently a model treats the groups of an attribute, in counts large enough that no single person shows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.audit.utility import SMALLEST, Accuracy


@dataclass(frozen=True)
class Fairness:
    """Differences between groups of rows that share a value, for one label taken as the favourable answer."""

    favourable: int
    """The label whose prediction is looked at, one against the rest."""

    demographic_parity_difference: float | None
    """Largest less smallest share of a group that gets the favourable answer; None unless two groups can be shown."""

    equalised_odds_difference: float | None
    """The larger of the differences of the true-positive and of the false-positive rate; None unless two groups have both."""

    selected: tuple[Accuracy | None, ...]
    """For each value: rows given the favourable answer, of the group's rows; None below 20."""

    true_positive: tuple[Accuracy | None, ...]
    """For each value: of the rows whose label is the favourable one."""

    false_positive: tuple[Accuracy | None, ...]
    """For each value: of the other rows."""

    withheld: int
    """Cells with fewer than 20 rows, or that others would show by subtraction."""


def fairness(predicted: Tensor, labels: Tensor, values_of: Tensor, *, values: int, favourable: int) -> Fairness:
    """Compare groups by fairlearn's definitions, without cells of fewer than 20 rows.

    With r_v(y) = P(predicted favourable | value v, label y): demographic parity difference = max_v - min_v of P(favourable | v), equalised
    odds difference = the larger of max_v - min_v of r_v(favourable) and of r_v(other). A group whose favourable or other rows are few is
    left out of both rates, because its total less one of them would show the other.

    Args:
        predicted: `[n]` int64.
        labels: `[n]` int64.
        values_of: `[n]` int64, each below `values`; -1 = missing, and not counted.

    Source: Hardt, Price & Srebro, NeurIPS 2016, section 2. https://arxiv.org/abs/1610.02413
    """
    given, positive = predicted == favourable, labels == favourable
    groups = [values_of == value for value in range(values)]
    whole = _published([[int(group.sum())] for group in groups])
    parts = _published([[int((group & positive).sum()), int((group & ~positive).sum())] for group in groups])
    selected = tuple(_rate(given, group) if shown else None for group, shown in zip(groups, whole, strict=True))
    true = tuple(_rate(given, group & positive) if shown else None for group, shown in zip(groups, parts, strict=True))
    false = tuple(_rate(given, group & ~positive) if shown else None for group, shown in zip(groups, parts, strict=True))
    odds = [difference for difference in (_difference(true), _difference(false)) if difference is not None]
    withheld = sum(cell is None for rates in (selected, true, false) for cell in rates)
    return Fairness(favourable, _difference(selected), max(odds) if len(odds) == 2 else None, selected, true, false, withheld)


def _published(counts: list[list[int]]) -> list[bool]:
    """Say which groups may be shown: all of a group's cells have 20 rows, and so have the groups withheld together, or they have none.

    Totals over all groups are published elsewhere: what is withheld follows from them by subtraction.

    Args:
        counts: for each group the rows of each of its cells.
    """
    shown = [min(cells) >= SMALLEST for cells in counts]
    while any(shown):
        hidden = [sum(cells[i] for cells, known in zip(counts, shown, strict=True) if not known) for i in range(len(counts[0]))]
        if not any(0 < n < SMALLEST for n in hidden):
            break
        shown[min((i for i in range(len(counts)) if shown[i]), key=lambda i: sum(counts[i]))] = False
    return shown


def _rate(given: Tensor, rows: Tensor) -> Accuracy:
    return Accuracy(int(torch.sum(given & rows)), int(rows.sum()))


def _difference(rates: tuple[Accuracy | None, ...]) -> float | None:
    known = [rate.value for rate in rates if rate is not None]
    return max(known) - min(known) if len(known) > 1 else None
