"""Rows of a data set with one private attribute: of each role, as far as the model holds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from models.erase.attribute import Attributed
from workers.artifacts import Shelf, among, in_final_half, rows_with_role, samples_of, unpack_table
from workers.failure import Failure

FEWEST, MOST = 2, 20


@dataclass(frozen=True)
class Material:
    """What an attribute is removed with, and what decides whether it is gone."""

    values: tuple[Any, ...]
    """The attribute's values among the rows trained on, in order."""
    trained: Attributed
    """Core rows, or with `data: all` core and user rows. Those without a value serve the task alone."""
    core: Attributed
    chooses: Attributed
    """The audit rows' validation half."""
    decides: Attributed
    """Their final half, which nothing is chosen by."""


def tables(plan: Mapping[str, Any], shelf: Shelf, keep: Set[str]) -> Iterator[tuple[int, pa.Table]]:
    """(number, rows) of each block of the data set, reduced to the rows that the model holds."""
    for number, blob in plan["dataset"]["blocks"]:
        table = unpack_table(shelf.vault.read(blob))
        yield number, table.filter(among(table["sample_id"], keep))


def material(blocks: Iterable[pa.Table], name: str, *, data: str, shape: tuple[int, ...], classes: list[Any]) -> Material:
    """Gather the rows by role.

    Raises:
        Failure: the attribute is not there, or has fewer than 2 or more than 20 values among the rows to be trained on.
    """
    whole = list(blocks)
    column = f"attr_{name}"
    if not whole or column not in whole[0].column_names:
        raise Failure("attribute_unknown", "The data set has no such attribute any more.")
    core, audit = rows_with_role(whole, "core"), rows_with_role(whole, "audit")
    fitted = core if data == "core" else pa.concat_tables([core, rows_with_role(whole, "user")])
    values = values_of(fitted[column])
    if not values and data == "core":
        raise Failure("attribute_not_in_core", "No core row has this attribute. Ask with data `all`, or upload core rows that have it.")
    if not FEWEST <= len(values) <= MOST:
        raise Failure("attribute_values", f"Attributes of {FEWEST} to {MOST} values can be removed; this one has {len(values)}.")

    def attributed(rows: pa.Table) -> Attributed:
        return Attributed(samples=samples_of(rows, shape, classes), values=places(rows[column], values))

    trained, kept = attributed(fitted), attributed(audit)
    final = torch.tensor([in_final_half(i) for i in kept.samples.ids], dtype=torch.bool)
    return Material(
        values=tuple(values),
        trained=trained,
        core=trained if data == "core" else attributed(core),
        chooses=kept.select(~final),
        decides=kept.select(final),
    )


def learns(rows: Attributed) -> Tensor:
    """Which of the rows that choose train the probes; the others judge them. `[n]` booleans, from the ids alone."""
    return torch.tensor([sha256(i.encode()).digest()[1] % 2 == 1 for i in rows.samples.ids], dtype=torch.bool)


def values_of(column: pa.ChunkedArray) -> list[Any]:
    """The known values of a column, in order: no value, and no number that is none, counts."""
    found = pc.unique(_known(column)).drop_null().to_pylist()
    return sorted(found)


def places(column: pa.ChunkedArray, values: list[Any]) -> Tensor:
    """Each row's place in `values`, `[n]` int64; -1 where it has none of them."""
    found = pc.index_in(_known(column), value_set=pa.array(values, column.type))
    return torch.from_numpy(pc.fill_null(found, -1).to_numpy().astype(np.int64))


def _known(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pa.types.is_floating(column.type):
        return column
    return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
