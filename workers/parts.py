"""A fit in parts: one process fits the core, any process encodes blocks of rows, and integer sums make it one result again.

Sums of integers have no order: the files are the same bits whoever encoded which part, and the same as from one process.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from models.linear.core import Core, core_tensors, load_core
from models.linear.statistics import merge, zeros
from workers.artifacts import (
    Shelf,
    among,
    concat_rows,
    pack_rows,
    pack_statistics,
    pack_table,
    pack_weights,
    unpack_rows,
    unpack_statistics,
    unpack_table,
    unpack_weights,
)
from workers.encoding import Base, Encoded, encode_blocks
from workers.recipe import architecture_of
from workers.report import Report

PHASE = "encoding rows"


@dataclass(frozen=True)
class Split:
    """A job up to where others can help: what they are to do, and what is needed to go on once they have."""

    tasks: list[dict[str, Any]]
    base: dict[str, Any]
    phase: str = PHASE

    def outcome(self, report: Report) -> dict[str, Any]:
        said = {"tasks": self.tasks, "base": self.base, "phase": self.phase, "span": report.span(self.phase)}
        return {"split": said, "seconds": report.end()}


def split(base: Base, groups: Sequence[Any], dropped: list[str], shelf: Shelf) -> Split:
    """Write down what a part needs to know.

    Args:
        groups: (number, blob) of each block of the data set, by part.
        dropped: ids of the rows to leave out. In a blob: the record holds no ids.
    """
    core = shelf.put(pack_weights(core_tensors(base.core))).blob_id
    common = {"core": core, "classes": base.classes, "dropped": shelf.put(json.dumps(dropped).encode()).blob_id if dropped else None}
    return Split(
        tasks=[common | {"blocks": group} for group in groups],
        base={
            "core": core,
            "core_rows": base.core_rows,
            "classes": base.classes,
            "statistics": shelf.put(pack_statistics(base.statistics)).blob_id,
            "index": shelf.put(pack_table(base.index)).blob_id,
        },
    )


def block(plan: Mapping[str, Any], shelf: Shelf, report: Report) -> dict[str, Any]:
    """Carry out one part of a job."""
    report.plan = {"loading": 0.05, PHASE: 0.85, "writing": 0.1}
    report.phase("loading")
    core = _core(plan, shelf, plan["core"], plan["classes"])
    report.phase(PHASE)
    encoded = encode_blocks(
        core,
        tables(plan, shelf),
        shelf,
        onto=zeros(core.d, core.architecture.classes),
        classes=plan["classes"],
        progress=lambda done: report.progress("", done / len(plan["blocks"])),
    )
    report.phase("writing")
    blobs = {
        "statistics": shelf.put(pack_statistics(encoded.statistics)).blob_id,
        "index": shelf.put(pack_table(encoded.index)).blob_id,
    }
    if encoded.audit is not None:
        blobs["audit"] = shelf.put(pack_rows(encoded.audit.rows, encoded.audit.ids, encoded.audit.labels)).blob_id
    return {"result": {"blocks": encoded.blocks, "blobs": blobs}, "seconds": report.end()}


def gathered(plan: Mapping[str, Any], shelf: Shelf) -> tuple[Base, Encoded]:
    """What the parts made, as if one process had made it."""
    vault, said, results = shelf.vault, plan["parts"]["base"], plan["parts"]["results"]
    base = Base(
        core=_core(plan, shelf, said["core"], said["classes"]),
        core_rows=said["core_rows"],
        classes=said["classes"],
        statistics=unpack_statistics(vault.read(said["statistics"])),
        index=unpack_table(vault.read(said["index"])),
    )
    total = base.statistics
    for result in results:
        total = merge(total, unpack_statistics(vault.read(result["blobs"]["statistics"])))
    audit = [unpack_rows(vault.read(result["blobs"]["audit"])) for result in results if "audit" in result["blobs"]]
    return base, Encoded(
        blocks=[written for result in results for written in result["blocks"]],
        statistics=total,
        index=pa.concat_tables(unpack_table(vault.read(result["blobs"]["index"])) for result in results),
        audit=concat_rows(audit) if audit else None,
    )


def _core(plan: Mapping[str, Any], shelf: Shelf, blob: str, classes: list[Any]) -> Core:
    architecture = architecture_of(plan["spec"], tuple(plan["dataset"]["shape"]), len(classes))
    return load_core(architecture, unpack_weights(shelf.vault.read(blob)))


def tables(plan: Mapping[str, Any], shelf: Shelf) -> Iterator[tuple[int, pa.Table]]:
    """Yield number and rows of each data block of a part, without the rows that are left out."""
    dropped = set(json.loads(shelf.vault.read(plan["dropped"]))) if plan["dropped"] else set()
    for number, blob in plan["blocks"]:
        table = unpack_table(shelf.vault.read(blob))
        yield number, table.filter(pc.invert(among(table["sample_id"], dropped))) if dropped else table
