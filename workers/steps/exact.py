"""The exact way: integer rows are taken out of the sums, weights solved again, blocks rewritten without the rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from models.forget import exact, retrain, zero
from models.linear.core import Core, load_core
from models.linear.statistics import Statistics
from workers.artifacts import (
    NamedRows,
    Shelf,
    among,
    concat_rows,
    pack_rows,
    pack_statistics,
    pack_table,
    pack_weights,
    unpack_rows,
    unpack_statistics,
    unpack_weights,
)
from workers.beside import AUDITS, OF_RETRAINING, measure_beside
from workers.forgotten import Forgotten
from workers.measure import accuracy_of
from workers.parts import Split
from workers.recipe import architecture_of, hyperparameters
from workers.report import Report
from workers.retrained import Retrained, Whole
from workers.selection import Asked, Selection
from workers.steps import erase_again
from workers.steps.fit import facts_of, fit_rows, write


@dataclass(frozen=True)
class Before:
    """A model as a forget job finds it."""

    held: pa.Table
    """Its own index: sample_id, role, label, block."""
    core: Core
    weights: Tensor
    audit: NamedRows | None


def _load(plan: Mapping[str, Any], shelf: Shelf, held: pa.Table) -> Before:
    vault, state, files = shelf.vault, plan["state"], plan["files"]
    spec, shape = plan["spec"], tuple(plan["dataset"]["shape"])
    core = load_core(architecture_of(spec, shape, len(spec["classes"])), unpack_weights(vault.read(files["core.safetensors"]["blob"])))
    return Before(
        held=held,
        core=core,
        weights=unpack_weights(vault.read(files["user.safetensors"]["blob"]))["user.weight"],
        audit=unpack_rows(vault.read(state["audit"])) if "audit" in state else None,
    )


def _exact(
    plan: Mapping[str, Any], shelf: Shelf, report: Report, held: pa.Table, selection: Selection, asked: list[Asked]
) -> dict[str, Any]:
    before = _load(plan, shelf, held)
    gone, blocks = _split_blocks(plan, shelf, before, selection)
    statistics = unpack_statistics(shelf.vault.read(plan["state"]["statistics"]))
    report.phase("forgetting")
    if gone is None:  # audit rows alone: the sums, and so the weights, stay as they are
        return _publishable(plan, shelf, report, before, selection, statistics, before.weights, None, blocks)
    removal = exact.forget(statistics, gone.rows, before.core, overwrite=True)
    outcome = _publishable(plan, shelf, report, before, selection, removal.statistics, removal.weights, gone, blocks)
    names = {name for request in asked for name in request.audits}
    if not names:
        return outcome
    done = Forgotten(
        plan=plan,
        shelf=shelf,
        core=before.core,
        before=before.weights,
        after=removal.weights,
        statistics=removal.statistics,
        gone=gone,
        keep=frozenset(held["sample_id"].to_pylist()) - selection.gone,
    )
    return outcome | {"evidence": measure_beside(names, done, report, AUDITS)}


def _zero(
    plan: Mapping[str, Any], shelf: Shelf, report: Report, held: pa.Table, selection: Selection, asked: list[Asked]
) -> dict[str, Any]:
    before = _load(plan, shelf, held)
    gone, blocks = _split_blocks(plan, shelf, before, selection)
    core_statistics = unpack_statistics(shelf.vault.read(plan["state"]["core_statistics"]))
    report.phase("forgetting")
    removal = zero.forget(core_statistics, before.core)
    return _publishable(plan, shelf, report, before, selection, removal.statistics, removal.weights, gone, blocks)


def _retrain(
    plan: Mapping[str, Any], shelf: Shelf, report: Report, held: pa.Table, selection: Selection, asked: list[Asked]
) -> dict[str, Any]:
    keep = set(held["sample_id"].to_pylist()) - selection.gone
    if plan["spec"].get("erased"):
        return erase_again.retrain(plan, shelf, report, keep)
    fitted = fit_rows(plan, shelf, report, keep=keep, given=None)
    if isinstance(fitted, Split):
        return fitted.outcome(report)
    report.phase("measuring")
    spec = dict(plan["spec"]) | {"resolved": hyperparameters(plan["spec"], fitted.core, fitted.core_rows)}
    # Rows encoded by another core say nothing of the old weights: what was measured with the old core stands in the parent's certificate.
    utility = accuracy_of(fitted.core, None, fitted.weights, fitted.audit, split="audit (final half)")
    report.phase("writing")
    files, state = write(fitted, shelf, plan)
    rewritten = {b["number"] for b in fitted.blocks}
    blocks = fitted.blocks + [{"number": n, "blob": "", "rows": 0} for n, _ in plan["blocks"] if n not in rewritten]
    outcome = {
        "files": files,
        "state": state,
        "blocks": blocks,
        "spec": spec,
        "utility": utility,
        "facts": facts_of(fitted.core, fitted.classes, retrain.proved(fitted.statistics, fitted.weights), files),
    }
    names = {name for request in asked for name in request.audits}
    if not names:
        return outcome
    before, every = _load(plan, shelf, held), frozenset(held["sample_id"].to_pylist())
    users = pc.sum(pc.equal(held["role"], "user")).as_py()
    ours, theirs = Whole(before.core, before.weights), Whole(fitted.core, fitted.weights)
    done = Retrained(plan, shelf, ours, theirs, fitted.statistics, selection, every, users)
    return outcome | {"evidence": measure_beside(names, done, report, OF_RETRAINING)}


METHODS: dict[str, Callable[..., dict[str, Any]]] = {"exact": _exact, "zero": _zero, "retrain": _retrain}


def _publishable(
    plan: Mapping[str, Any],
    shelf: Shelf,
    report: Report,
    before: Before,
    selection: Selection,
    statistics: Statistics,
    weights: Tensor,
    gone: NamedRows | None,
    blocks: list[dict[str, Any]],
) -> dict[str, Any]:
    """Measure, and write what the new version is made of."""
    report.phase("measuring")
    audit = before.audit
    if audit is not None and selection.audit:
        audit = audit.pick([i not in selection.audit for i in audit.ids])
    utility = accuracy_of(before.core, before.weights, weights, audit, split="audit (final half)")
    utility += accuracy_of(before.core, before.weights, weights, gone, split="forgotten")
    report.phase("writing")
    files = dict(plan["files"]) | {"user.safetensors": shelf.put_file(pack_weights({"user.weight": weights}))}
    held = before.held.filter(pc.invert(among(before.held["sample_id"], selection.gone)))
    state = dict(plan["state"]) | {
        "statistics": shelf.put(pack_statistics(statistics)).blob_id,
        "index": shelf.put(pack_table(held)).blob_id,
    }
    if audit is not before.audit and audit is not None:
        state["audit"] = shelf.put(pack_rows(audit.rows, audit.ids, audit.labels)).blob_id
    return {
        "files": files,
        "state": state,
        "blocks": blocks,
        "spec": plan["spec"],
        "utility": utility,
        "facts": facts_of(before.core, plan["spec"]["classes"], exact.proved(statistics, weights), files),
    }


def _split_blocks(
    plan: Mapping[str, Any], shelf: Shelf, before: Before, selection: Selection
) -> tuple[NamedRows | None, list[dict[str, Any]]]:
    """Take the gone rows out of their blocks. Returns them, and the blocks rewritten without them."""
    touched = set(before.held.filter(among(before.held["sample_id"], selection.user))["block"].to_pylist())
    gone, blocks = [], []
    for number, blob in plan["blocks"]:
        if number in touched:
            rows = unpack_rows(shelf.vault.read(blob))
            leaves = np.array([i in selection.user for i in rows.ids])
            gone.append(rows.pick(leaves))
            kept = rows.pick(~leaves)
            blob = shelf.put(pack_rows(kept.rows, kept.ids, kept.labels)).blob_id if kept.ids else ""
            blocks.append({"number": number, "blob": blob, "rows": len(kept.ids)})
    return (concat_rows(gone) if gone else None), blocks
