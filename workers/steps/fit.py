"""A model is fitted: a core on core rows, then user weights on user rows, from integers that can be taken back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from models.data import Samples
from models.forget import exact
from models.guarantee import Proved
from models.linear.core import Core, core_tensors, encode
from models.linear.solve import solve
from models.linear.statistics import Rows, Statistics, add, curvature, zeros
from workers.artifacts import (
    NamedRows,
    Shelf,
    concat_rows,
    in_final_half,
    pack_rows,
    pack_statistics,
    pack_table,
    pack_weights,
    rows_with_role,
    samples_of,
    unpack_table,
    unpack_weights,
)
from workers.failure import Failure
from workers.measure import accuracy_of
from workers.recipe import architecture_of, core_of, hyperparameters
from workers.report import Report
from workers.steps import linearised

PART = 8192
"""User rows added to the statistics at once."""


@dataclass(frozen=True)
class Fitted:
    """A core, and user weights on top of it, with all that later forgetting needs."""

    core: Core
    core_rows: int
    classes: list[Any]
    core_statistics: Statistics
    statistics: Statistics
    weights: Tensor
    blocks: list[dict[str, Any]]
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


def fit(plan: Mapping[str, Any], shelf: Shelf, report: Report) -> dict[str, Any]:
    """Fit a model's first version."""
    if plan["spec"].get("linearize"):
        return linearised.fit(plan, shelf, report)
    report.plan = {"loading": 0.02, "training the core": 0.6, "encoding rows": 0.33, "solving": 0.02, "writing": 0.03}
    report.phase("loading")
    given = unpack_weights(shelf.vault.read(plan["given_core"])) if plan["given_core"] else None
    fitted = fit_rows(plan, shelf, report, keep=None, given=given)
    report.phase("writing")
    files, state = write(fitted, shelf, plan)
    audit = accuracy_of(fitted.core, torch.zeros_like(fitted.weights), fitted.weights, fitted.audit, split="audit (final half)")
    spec = dict(plan["spec"]) | {"classes": fitted.classes, "resolved": hyperparameters(plan["spec"], fitted.core, fitted.core_rows)}
    return {
        "files": files,
        "state": state,
        "blocks": fitted.blocks,
        "spec": spec,
        "utility": audit,
        "method": "fit",
        "facts": facts_of(fitted.core, fitted.classes, exact.proved(fitted.statistics, fitted.weights), files),
        "seconds": report.end(),
    }


def fit_rows(plan: Mapping[str, Any], shelf: Shelf, report: Report, *, keep: set[str] | None, given: Mapping[str, Tensor] | None) -> Fitted:
    """Core and user weights from the data set's rows, or from those in `keep` alone.

    Raises:
        Failure: labels outside the classes, no core rows, weights that do not fit.
    """
    spec, shape = plan["spec"], tuple(plan["dataset"]["shape"])
    blocks = list(_kept_blocks(plan, shelf, keep))
    core_table = rows_with_role((b for _, b in blocks), "core")
    classes = spec["classes"] or sorted(set(core_table["label"].to_pylist()))
    if len(classes) < 2:
        raise Failure("classes", "A model needs at least 2 classes; declare `classes`, or upload core rows of more labels.")
    samples = samples_of(core_table, shape, classes) if len(core_table) else None
    report.phase("training the core")
    core = core_of(spec, architecture_of(spec, shape, len(classes)), samples, given=given, progress=report.progress)
    report.phase("encoding rows")
    core_statistics = _core_statistics(core, samples)
    sums, written, entries, audit = Sums(core_statistics), [], [_entries(core_table, classes, "core")], []
    for position, (number, block) in enumerate(blocks):
        user, tested = rows_with_role([block], "user"), rows_with_role([block], "audit")
        if len(user):
            rows = _encode(core, samples_of(user, shape, classes))
            sums.take(rows.rows)
            written.append(
                {"number": number, "blob": shelf.put(pack_rows(rows.rows, rows.ids, rows.labels)).blob_id, "rows": len(rows.ids)}
            )
            entries.append(_entries(user, classes, "user", number))
        if len(tested):
            entries.append(_entries(tested, classes, "audit"))
            final = tested.filter(pa.array([in_final_half(i) for i in tested["sample_id"].to_pylist()]))
            if len(final):
                audit.append(_encode(core, samples_of(final, shape, classes)))
        report.progress("", (position + 1) / len(blocks))
    statistics = sums.total()
    report.phase("solving")
    weights = solve(statistics, feature_scale=core.feature_scale, target_scale=core.target_scale, ridge=core.ridge)
    return Fitted(
        core,
        len(core_table),
        classes,
        core_statistics,
        statistics,
        weights,
        written,
        pa.concat_tables(entries),
        concat_rows(audit) if audit else None,
    )


def write(fitted: Fitted, shelf: Shelf, plan: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Store a version's files and the model's private state. Returns both by name."""
    files = {
        "core.safetensors": shelf.put_file(pack_weights(core_tensors(fitted.core))),
        "user.safetensors": shelf.put_file(pack_weights({"user.weight": fitted.weights})),
    }
    state = {
        "statistics": shelf.put(pack_statistics(fitted.statistics)).blob_id,
        "core_statistics": shelf.put(pack_statistics(fitted.core_statistics)).blob_id,
        "index": shelf.put(pack_table(fitted.index)).blob_id,
    }
    if fitted.audit is not None:
        state["audit"] = shelf.put(pack_rows(fitted.audit.rows, fitted.audit.ids, fitted.audit.labels)).blob_id
    return files, state


def facts_of(core: Core, classes: list[Any], proved: Proved, files: Mapping[str, Any]) -> dict[str, Any]:
    """What the certificate says of a version: its form, and what is proved of the weights in its file."""
    value = {**proved.value, "weights": files["user.safetensors"]["sha256"]}
    return {
        "classes": classes,
        "input_shape": list(core.architecture.input_shape),
        "guarantees": [asdict(proved) | {"value": value}],
    }


def _kept_blocks(plan: Mapping[str, Any], shelf: Shelf, keep: set[str] | None) -> Iterator[tuple[int, pa.Table]]:
    for number, blob in plan["dataset"]["blocks"]:
        table = unpack_table(shelf.vault.read(blob))
        yield number, table if keep is None else table.filter(pc.is_in(table["sample_id"], value_set=pa.array(list(keep), pa.string())))


def _core_statistics(core: Core, samples: Samples | None) -> Statistics:
    if samples is None or core.net is None:
        return zeros(core.d, core.architecture.classes)
    return curvature(encode(core, samples.inputs, samples.labels).features, core.architecture.classes)


def _encode(core: Core, samples: Samples) -> NamedRows:
    return NamedRows(encode(core, samples.inputs, samples.labels), samples.labels, list(samples.ids))


def _entries(rows: pa.Table, classes: list[Any], role: str, block: int = -1) -> pa.Table:
    labels = pc.index_in(rows["label"], value_set=pa.array(classes, rows.schema.field("label").type))
    return pa.table(
        {
            "sample_id": rows["sample_id"],
            "role": pa.array([role] * len(rows), pa.string()),
            "label": labels.cast(pa.int32()),
            "block": pa.array(np.full(len(rows), block, np.int32)),
        }
    )
