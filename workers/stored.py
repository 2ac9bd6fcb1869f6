"""A linearised model's rows as its solver goes through them: a data block at a time, so that a data set need not fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from functools import partial
from typing import Any

import torch
from torch import Tensor

from models.linear.quadratic import Quadratic
from models.linear.tangent import prepare
from models.linear.whole import WholeCore, quadratic
from workers.artifacts import Shelf, rows_with_role
from workers.linearised import block_of, samples

KEPT = 1 << 30
"""Bytes of prepared rows of one role that stay in memory between passes. Blocks beyond are read, decrypted and prepared again in each."""


class StoredRows:
    """The prepared rows of one role, in data blocks: those that there was room for in memory, the others where they are stored."""

    def __init__(self, read: Callable[[int], Tensor], *, room: int) -> None:
        """Begin without rows.

        Args:
            read: gives the prepared rows `[n_b, ...]` of a data block by its position.
            room: bytes of rows that may stay in memory.
        """
        self._read = read
        self._counts: list[int] = []
        self._kept: dict[int, Tensor] = {}
        self._free = room

    def add(self, count: int, prepared: Callable[[], Tensor]) -> None:
        """Take the next data block, and keep its rows while there is room: behind the first block without, no row is prepared.

        Args:
            count: of its rows.
            prepared: gives them, `[count, ...]`.
        """
        if self._free or not count:
            rows = prepared()
            if rows.nbytes <= self._free:
                self._kept[len(self._counts)] = rows
            self._free = max(0, self._free - rows.nbytes)
        self._counts.append(count)

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of rows in each data block."""
        return tuple(self._counts)

    def __len__(self) -> int:
        return sum(self._counts)

    def blocks(self) -> Iterator[Tensor]:
        """Yield the rows of each data block, in their order."""
        for position in range(len(self._counts)):
            yield self._kept[position] if position in self._kept else self._read(position)


def stored_loss(plan: Mapping[str, Any], shelf: Shelf, core: WholeCore, classes: list[Any], ids: Set[str] | None) -> Quadratic:
    """Write down the loss of the user weights over a data set's rows.

    Args:
        ids: the rows that count; None takes all.
    """

    def rows_of(role: str, position: int) -> Tensor:
        return prepare(core.tangent, samples(rows_with_role([block_of(plan, shelf, position, ids)], role), plan, classes).inputs)

    user, beneath = (StoredRows(partial(rows_of, role), room=KEPT) for role in ("user", "core"))
    labels = []
    for position in range(len(plan["dataset"]["blocks"])):
        block = block_of(plan, shelf, position, ids)
        own, under = (samples(rows_with_role([block], role), plan, classes) for role in ("user", "core"))
        user.add(len(own), partial(prepare, core.tangent, own.inputs))
        beneath.add(len(under), partial(prepare, core.tangent, under.inputs))
        labels.append(own.labels)
    cuts = tuple(zip(user.counts, beneath.counts, strict=True))
    return quadratic(core, user, torch.cat(labels), beneath, cuts=cuts)
