"""Rows become integers: user and audit rows read through a core, and summed; any blocks of a data set, by any process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from models.data import Samples
from models.linear.core import Core, encode
from models.linear.statistics import Rows, Statistics, add
from workers.artifacts import NamedRows, Shelf, concat_rows, in_final_half, pack_rows, rows_with_role, samples_of

PART = 8192
"""User rows added to the statistics at once."""


@dataclass(frozen=True)
class Base:
    """What the core rows decide, and all that user rows are read with."""

    core: Core
    core_rows: int
    classes: list[Any]
    statistics: Statistics
    """Of the core rows alone."""
    index: pa.Table
    """Entries of the core rows."""


@dataclass(frozen=True)
class Encoded:
    """User and audit rows of some blocks, read through a core."""

    blocks: list[dict[str, Any]]
    """number, blob and rows of each block of integer rows."""
    statistics: Statistics
    index: pa.Table
    """sample_id, role, label (index in the class list), block (-1 for rows that have no integer row)."""
    audit: NamedRows | None


@dataclass
class Sums:
    """Statistics that rows are added to in large parts: each addition passes over all of A, however few rows it adds."""

    statistics: Statistics
    waiting: list[Rows] = field(default_factory=list)

    def take(self, rows: Rows) -> None:
        self.waiting.append(rows)
        if sum(map(len, self.waiting)) >= PART:
            self.total()

    def total(self) -> Statistics:
        if self.waiting:
            part = Rows(torch.cat([r.features for r in self.waiting]), torch.cat([r.targets for r in self.waiting]))
            self.statistics, self.waiting = add(self.statistics, part), []
        return self.statistics


def encode_blocks(
    core: Core,
    blocks: Iterable[tuple[int, pa.Table]],
    shelf: Shelf,
    *,
    onto: Statistics,
    classes: list[Any],
    progress: Callable[[int], None],
) -> Encoded:
    """Encode the user rows, and the audit rows' final half, of at least one block; store the integer rows.

    Args:
        blocks: (number, rows) of each.
        onto: what the user rows are added to.
        progress: told how many blocks are done.

    Raises:
        Failure: `label_unknown`.
    """
    sums, written, entries, audit = Sums(onto), [], [], []
    shape = core.architecture.input_shape
    for position, (number, block) in enumerate(blocks):
        user, tested = rows_with_role([block], "user"), rows_with_role([block], "audit")
        if len(user):
            rows = _encode(core, samples_of(user, shape, classes))
            sums.take(rows.rows)
            written.append(
                {"number": number, "blob": shelf.put(pack_rows(rows.rows, rows.ids, rows.labels)).blob_id, "rows": len(rows.ids)}
            )
        if len(tested):
            final = tested.filter(pa.array([in_final_half(i) for i in tested["sample_id"].to_pylist()]))
            if len(final):
                audit.append(_encode(core, samples_of(final, shape, classes)))
        entries += [entries_of(user, classes, "user", number), entries_of(tested, classes, "audit")]
        progress(position + 1)
    return Encoded(written, sums.total(), pa.concat_tables(entries), concat_rows(audit) if audit else None)


def entries_of(rows: pa.Table, classes: list[Any], role: str, block: int = -1) -> pa.Table:
    """What a model's index says of rows."""
    labels = pc.index_in(rows["label"], value_set=pa.array(classes, rows.schema.field("label").type))
    return pa.table(
        {
            "sample_id": rows["sample_id"],
            "role": pa.array([role] * len(rows), pa.string()),
            "label": labels.cast(pa.int32()),
            "block": pa.array(np.full(len(rows), block, np.int32)),
        }
    )


def _encode(core: Core, samples: Samples) -> NamedRows:
    return NamedRows(encode(core, samples.inputs, samples.labels), samples.labels, list(samples.ids))
