"""Rows with a private attribute, and how much each weighs where every cell (label, value) is to count the same."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.data import Samples

MOST_VALUES = 20
MISSING = -1
HEAVIEST = 20.0
"""The weight of a row, in means: without a limit the few rows of a rare cell would be all that a head learns."""


@dataclass(frozen=True)
class Attributed:
    """Rows with task labels and a private attribute."""

    samples: Samples

    values: Tensor
    """`[n]` int64, index into the attribute's values; -1 = missing: such a row is used for the task only."""

    def __post_init__(self) -> None:
        """Refuse values that do not belong to the rows.

        Raises:
            ValueError: on another type or length, or a value below -1.
        """
        if self.values.dtype != torch.int64 or tuple(self.values.shape) != (len(self.samples),):
            raise ValueError(f"values are [{len(self.samples)}] int64, not {list(self.values.shape)} {self.values.dtype}")
        if len(self.values) and int(self.values.min()) < MISSING:
            raise ValueError("a value is below -1: values are indices, and -1 means missing")

    def __len__(self) -> int:
        return len(self.samples)

    def select(self, rows: Tensor) -> Attributed:
        """Keep some rows, by mask or by number."""
        index = rows.nonzero().flatten() if rows.dtype == torch.bool else rows
        return Attributed(self.samples.select(index), self.values[index])

    @property
    def known(self) -> Attributed:
        """The rows whose value is known."""
        return self.select(self.values >= 0)


def refuse_unusable(rows: Attributed, values: int, classes: int) -> None:
    """Refuse rows from which nothing about the attribute can be learnt.

    Raises:
        ValueError: on a number of values out of range, a value or label outside its list, or fewer than two values among the rows.
    """
    if not 2 <= values <= MOST_VALUES:
        raise ValueError(f"an attribute has 2 to {MOST_VALUES} values, not {values}")
    if not len(rows) or int(rows.values.max()) >= values:
        raise ValueError(f"a row's value is outside the {values} values" if len(rows) else "there are no rows")
    if int(rows.samples.labels.max()) >= classes:
        raise ValueError(f"label {int(rows.samples.labels.max())} is outside the {classes} classes")
    if int((torch.bincount(rows.values[rows.values >= 0], minlength=values) > 0).sum()) < 2:
        raise ValueError("fewer than two values occur among the rows: there is nothing to remove")


def shares(rows: Attributed, values: int) -> Tensor:
    """Return p_v, the shares of the values among the rows that have one, `[K]` float64."""
    counts = torch.bincount(rows.values[rows.values >= 0], minlength=values).double()
    return counts / counts.sum()


def balance(rows: Attributed, values: int) -> Tensor:
    """Return weights `[n]` float32 under which every cell (label, value) that occurs counts the same, up to `HEAVIEST`.

    Their mean over the rows that have a value is 1; rows without one weigh 0.
    """
    known = rows.values >= 0
    cell = (rows.samples.labels * values + rows.values)[known]
    counts = torch.bincount(cell).double()
    weights = ((counts.sum() / (counts > 0).sum()) / counts)[cell].clamp(max=HEAVIEST)
    out = torch.zeros(len(rows), dtype=torch.float64)
    out[known] = weights / weights.mean()
    return out.float()


def label_information(rows: Attributed, values: int) -> float:
    """Return I(y; v) in nats among the rows that have a value: what any feature that tells the label leaks, unless rows are balanced."""
    known = rows.known
    joint = torch.bincount(known.samples.labels * values + known.values).double()
    joint = torch.cat([joint, joint.new_zeros(-len(joint) % values)]).view(-1, values) / joint.sum()
    outer = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    return max(0.0, float(torch.xlogy(joint, joint / outer.clamp_min(1e-300)).sum()))
