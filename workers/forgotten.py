"""What an exact removal leaves to be measured, as long as it lasts: both versions' weights, and the rows that went."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.forget.refit import weights_of
from models.linear.core import Core
from models.linear.statistics import Rows, Statistics, subtract
from models.progress import Progress
from workers.artifacts import NamedRows, Shelf, concat_rows, unpack_rows

FEWEST_KEPT = 8


@dataclass(frozen=True)
class Forgotten:
    """An exact removal that is done and not yet published."""

    plan: Mapping[str, Any]
    shelf: Shelf
    core: Core
    before: Tensor
    """User weights `[d, C]`."""
    after: Tensor
    statistics: Statistics
    """Of the rows that stay."""
    gone: NamedRows
    """The forgotten user rows."""
    keep: frozenset[str]
    """Ids of all samples that the model still holds, of every role."""

    @cached_property
    def stay(self) -> NamedRows:
        """The user rows that stay."""
        names = set(self.gone.ids)
        blocks = [unpack_rows(self.shelf.vault.read(blob)) for _, blob in self.plan["blocks"]]
        return concat_rows([rows.pick([i not in names for i in rows.ids]) for rows in blocks])

    @property
    def counts(self) -> tuple[int, int]:
        """How many user rows went, and how many stay."""
        return len(self.gone.ids), len(self.stay.ids)

    @cached_property
    def test(self) -> NamedRows | None:
        """The audit rows' final half, as far as the model still holds them."""
        if "audit" not in self.plan["state"]:
            return None
        rows = unpack_rows(self.shelf.vault.read(self.plan["state"]["audit"]))
        return rows.pick([i in self.keep for i in rows.ids])

    def others(self, generator: np.random.Generator) -> Tensor:
        """Places in `stay` of as many rows as were forgotten, or of half of them where so many are not there."""
        many = min(len(self.gone.ids), len(self.stay.ids) // 2)
        return torch.from_numpy(generator.choice(len(self.stay.ids), size=many, replace=False))

    def without(self, statistics: Statistics, places: Tensor) -> Tensor:
        """The weights that these sums give without some of the rows that stay."""
        rows = self.stay.rows
        return weights_of(self.core, subtract(statistics, Rows(rows.features[places], rows.targets[places])))


@dataclass(frozen=True)
class Shown:
    """What an audit of a removal leaves."""

    files: dict[str, bytes]
    pictures: dict[str, bytes] = field(default_factory=dict)
    """Files that show forgotten samples: destroyed with the version before."""
    fitted: bool = True
    """Whether models were fitted for it."""


Beside = Callable[[Forgotten, Progress], Shown]
"""An audit of a removal."""


def told(name: str, what: Mapping[str, Any]) -> dict[str, bytes]:
    """What an audit says, as its file `<name>.json`."""
    return {f"{name}.json": json.dumps(what, indent=1).encode()}
