"""A model is fitted: a core on core rows, then user weights on user rows, from integers that can be taken back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from models.data import Samples
from models.forget import exact
from models.guarantee import Proved
from models.linear.core import Core, core_tensors, encode
from models.linear.solve import solve
from models.linear.statistics import Statistics, curvature, zeros
from workers.artifacts import (
    NamedRows,
    Shelf,
    among,
    pack_rows,
    pack_statistics,
    pack_table,
    pack_weights,
    rows_with_role,
    samples_of,
    unpack_table,
    unpack_weights,
)
from workers.encoding import Base, Encoded, encode_blocks, entries_of
from workers.failure import Failure
from workers.measure import accuracy_of
from workers.parts import Split, gathered, split
from workers.recipe import architecture_of, core_of, hyperparameters
from workers.report import Report
from workers.steps import linearised


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


def fit(plan: Mapping[str, Any], shelf: Shelf, report: Report) -> dict[str, Any]:
    """Fit a model's first version."""
    if plan["spec"].get("linearize"):
        return linearised.fit(plan, shelf, report)
    training = "training the core" if plan["given_core"] is None else "fitting the core's linear part"
    report.plan = {"loading": 0.02, training: 0.6, "encoding rows": 0.33, "solving": 0.02, "writing": 0.03}
    report.resume(plan)
    report.phase("loading")
    given = unpack_weights(shelf.vault.read(plan["given_core"])) if plan["given_core"] else None
    fitted = fit_rows(plan, shelf, report, keep=None, given=given)
    if isinstance(fitted, Split):
        return fitted.outcome(report)
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


def fit_rows(
    plan: Mapping[str, Any], shelf: Shelf, report: Report, *, keep: set[str] | None, given: Mapping[str, Tensor] | None
) -> Fitted | Split:
    """Core and user weights from the data set's rows, or from those in `keep` alone. Of many rows: the core, and the rest in parts.

    Raises:
        Failure: labels outside the classes, no core rows, weights that do not fit.
    """
    if "parts" in plan:
        return _solved(*gathered(plan, shelf), report)
    groups = plan.get("groups")
    blocks, core_rows, dropped = [], [], []
    for number, blob in plan["dataset"]["blocks"]:
        table = unpack_table(shelf.vault.read(blob))
        if keep is not None:
            dropped += [name for name in table["sample_id"].to_pylist() if name not in keep]
            table = table.filter(among(table["sample_id"], keep))
        core_rows.append(rows_with_role([table], "core"))
        blocks.append((number, None if groups else table))  # who hands rows out needs no room for them
    base = _base(plan, report, pa.concat_tables(core_rows), given)
    if groups:
        return split(base, groups, dropped, shelf)
    encoded = encode_blocks(
        base.core,
        blocks,
        shelf,
        onto=base.statistics,
        classes=base.classes,
        progress=lambda done: report.progress("", done / len(blocks)),
    )
    return _solved(base, encoded, report)


def _base(plan: Mapping[str, Any], report: Report, rows: pa.Table, given: Mapping[str, Tensor] | None) -> Base:
    spec, shape = plan["spec"], tuple(plan["dataset"]["shape"])
    classes = spec["classes"] or sorted(set(rows["label"].to_pylist()))
    if len(classes) < 2:
        raise Failure("classes", "A model needs at least 2 classes; declare `classes`, or upload core rows of more labels.")
    samples = samples_of(rows, shape, classes) if len(rows) else None
    report.phase("training the core" if given is None else "fitting the core's linear part")
    core = core_of(spec, architecture_of(spec, shape, len(classes)), samples, given=given, progress=report.progress)
    report.phase("encoding rows")
    return Base(core, len(rows), classes, _core_statistics(core, samples), entries_of(rows, classes, "core"))


def _solved(base: Base, encoded: Encoded, report: Report) -> Fitted:
    report.phase("solving")
    core = base.core
    weights = solve(encoded.statistics, feature_scale=core.feature_scale, target_scale=core.target_scale, ridge=core.ridge)
    return Fitted(
        core,
        base.core_rows,
        base.classes,
        base.statistics,
        encoded.statistics,
        weights,
        encoded.blocks,
        pa.concat_tables([base.index, encoded.index]),
        encoded.audit,
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


def _core_statistics(core: Core, samples: Samples | None) -> Statistics:
    if samples is None or core.net is None:
        return zeros(core.d, core.architecture.classes)
    return curvature(encode(core, samples.inputs, samples.labels).features, core.architecture.classes)
