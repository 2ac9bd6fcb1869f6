"""Samples are forgotten: requests resolved, statistics cleaned, weights solved again, blocks rewritten without the rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from expunge import merkle
from models.forget import exact, zero
from models.linear.core import Core, load_core
from models.linear.solve import digest as weights_digest
from models.linear.statistics import Statistics, digest
from workers.artifacts import (
    NamedRows,
    Shelf,
    concat_rows,
    pack_rows,
    pack_statistics,
    pack_table,
    pack_weights,
    summary_of,
    unpack_rows,
    unpack_statistics,
    unpack_table,
    unpack_weights,
)
from workers.measure import accuracy_of
from workers.parts import Split
from workers.recipe import architecture_of, hyperparameters
from workers.report import Report
from workers.selection import Asked, Memory, Selection, select, subjects_emptied
from workers.steps.fit import facts_of, fit_rows, write


@dataclass(frozen=True)
class Before:
    """A model as a forget job finds it."""

    index: pa.Table
    """Of the data set."""
    held: pa.Table
    """The model's own index: sample_id, role, label, block."""
    core: Core
    weights: Tensor
    audit: NamedRows | None


def forget(plan: Mapping[str, Any], shelf: Shelf, report: Report) -> dict[str, Any]:
    """Carry out all requests of one job at once."""
    report.plan = (
        {
            "loading": 0.2,
            "training the core": 6.0,
            "encoding rows": 3.0,
            "forgetting": 0.3,
            "measuring": 0.1,
            "writing": 0.2,
            "erasing rows": 0.2,
        }
        if plan["method"] == "retrain"
        else {"loading": 0.2, "forgetting": 0.3, "measuring": 0.1, "writing": 0.2, "erasing rows": 0.2}
    )
    report.resume(plan)
    report.phase("loading")
    before = _load(plan, shelf)
    memory = Memory(bytes.fromhex(plan["secret"]), plan["model_id"], frozenset(plan["tombstones"]))
    asked = [_asked(request, shelf) for request in plan["requests"]]
    roles = dict(zip(before.held["sample_id"].to_pylist(), before.held["role"].to_pylist(), strict=True))
    selection = select(asked, index=before.index, held=roles, memory=memory, core_too=plan["method"] == "retrain")
    if not selection.gone:
        return {
            "nothing": True,
            "requests": {r: {"dispositions": d} for r, d in selection.dispositions.items()},
            "seconds": report.end(),
            "facts": {"dispositions": _total(selection)},
        }
    outcome = _METHODS[plan["method"]](plan, shelf, report, before, selection)
    if "split" in outcome:
        return outcome
    report.phase("erasing rows")
    erased, still = _erase_from_dataset(plan, shelf, before, selection)
    tags = {memory.tag("sample", s) for s in selection.gone} | {
        memory.tag("subject", s) for s in subjects_emptied(before.index, selection.gone)
    }
    return (
        outcome
        | erased
        | {
            "parent": plan["parent"],
            "method": plan["method"],
            "requests": _results(asked, selection, shelf, still),
            "tombstones": sorted(tags - memory.tags),
            "seconds": report.end(),
        }
    )


def _load(plan: Mapping[str, Any], shelf: Shelf) -> Before:
    vault, state, files = shelf.vault, plan["state"], plan["files"]
    spec, shape = plan["spec"], tuple(plan["dataset"]["shape"])
    core = load_core(architecture_of(spec, shape, len(spec["classes"])), unpack_weights(vault.read(files["core.safetensors"]["blob"])))
    return Before(
        index=unpack_table(vault.read(plan["dataset"]["index"])),
        held=unpack_table(vault.read(state["index"])),
        core=core,
        weights=unpack_weights(vault.read(files["user.safetensors"]["blob"]))["user.weight"],
        audit=unpack_rows(vault.read(state["audit"])) if "audit" in state else None,
    )


def _asked(request: Mapping[str, Any], shelf: Shelf) -> Asked:
    body = json.loads(shelf.vault.read(request["body"]))
    return Asked(
        id=request["id"],
        kind=body["kind"],
        ids=tuple(body.get("ids", ())),
        subjects=tuple(body.get("subjects", ())),
        where=body.get("where"),
        seed=bytes.fromhex(body["seed"]),
    )


# The methods ----------------------------------------------------------------------------------------------------------


def _exact(plan: Mapping[str, Any], shelf: Shelf, report: Report, before: Before, selection: Selection) -> dict[str, Any]:
    gone, blocks = _split_blocks(plan, shelf, before, selection)
    statistics = unpack_statistics(shelf.vault.read(plan["state"]["statistics"]))
    report.phase("forgetting")
    if gone is None:  # audit rows alone: the sums, and so the weights, stay as they are
        return _publishable(plan, shelf, report, before, selection, statistics, before.weights, None, blocks)
    removal = exact.forget(statistics, gone.rows, before.core, overwrite=True)
    return _publishable(plan, shelf, report, before, selection, removal.statistics, removal.weights, gone, blocks)


def _zero(plan: Mapping[str, Any], shelf: Shelf, report: Report, before: Before, selection: Selection) -> dict[str, Any]:
    gone, blocks = _split_blocks(plan, shelf, before, selection)
    core_statistics = unpack_statistics(shelf.vault.read(plan["state"]["core_statistics"]))
    report.phase("forgetting")
    removal = zero.forget(core_statistics, before.core)
    return _publishable(plan, shelf, report, before, selection, removal.statistics, removal.weights, gone, blocks)


def _retrain(plan: Mapping[str, Any], shelf: Shelf, report: Report, before: Before, selection: Selection) -> dict[str, Any]:
    keep = set(before.held["sample_id"].to_pylist()) - selection.gone
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
    return {
        "files": files,
        "state": state,
        "blocks": blocks,
        "spec": spec,
        "utility": utility,
        "facts": facts_of(fitted) | _set_facts(before, selection, plan),
    }


_METHODS: dict[str, Callable[..., dict[str, Any]]] = {"exact": _exact, "zero": _zero, "retrain": _retrain}


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
    held = before.held.filter(pc.invert(_among(before.held["sample_id"], selection.gone)))
    state = dict(plan["state"]) | {
        "statistics": shelf.put(pack_statistics(statistics)).blob_id,
        "index": shelf.put(pack_table(held)).blob_id,
    }
    if audit is not before.audit and audit is not None:
        state["audit"] = shelf.put(pack_rows(audit.rows, audit.ids, audit.labels)).blob_id
    facts = {
        "statistics": digest(statistics),
        "weight_values": weights_digest(weights),
        "rows": statistics.rows,
        "d": len(statistics.A),
        "classes": plan["spec"]["classes"],
        "input_shape": list(before.core.architecture.input_shape),
    }
    return {
        "files": files,
        "state": state,
        "blocks": blocks,
        "spec": plan["spec"],
        "utility": utility,
        "facts": facts | _set_facts(before, selection, plan),
    }


def _split_blocks(
    plan: Mapping[str, Any], shelf: Shelf, before: Before, selection: Selection
) -> tuple[NamedRows | None, list[dict[str, Any]]]:
    """Take the gone rows out of their blocks. Returns them, and the blocks rewritten without them."""
    touched = set(before.held.filter(_among(before.held["sample_id"], selection.user))["block"].to_pylist())
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


# What goes from the data set, and what is told ------------------------------------------------------------------------


def _erase_from_dataset(
    plan: Mapping[str, Any], shelf: Shelf, before: Before, selection: Selection
) -> tuple[dict[str, Any], dict[str, set[str]]]:
    """Rewrite the data set's blocks without the rows that no model holds any more. Returns also what other models still hold."""
    still: dict[str, set[str]] = {}
    for other in plan["others"]:
        names = set(unpack_table(shelf.vault.read(other["index"]))["sample_id"].to_pylist())
        if kept := names & selection.gone:
            still[other["name"]] = kept
    erasable = selection.gone.difference(*still.values())
    leaving = _among(before.index["sample_id"], erasable)
    touched, numbers = set(before.index.filter(leaving)["block"].to_pylist()), dict(plan["dataset"]["blocks"])
    blocks = []
    for number in sorted(touched):
        table = unpack_table(shelf.vault.read(numbers[number]))
        kept_rows = table.filter(pc.invert(_among(table["sample_id"], erasable)))
        blob = shelf.put(pack_table(kept_rows)).blob_id if len(kept_rows) else ""
        blocks.append({"number": number, "blob": blob, "rows": len(kept_rows)})
    index = before.index.filter(pc.invert(leaving))
    summary = summary_of(index, tuple(plan["dataset"]["shape"])) | {"text_labels": plan["dataset"]["text_labels"]}
    return {"dataset_blocks": blocks, "dataset_index": shelf.put(pack_table(index)).blob_id if touched else None, "summary": summary}, still


def _results(asked: list[Asked], selection: Selection, shelf: Shelf, still: Mapping[str, set[str]]) -> dict[str, Any]:
    """Dispositions and receipts by request. Receipts hold salts and leaf values, no ids."""
    values = [v.hex() for v in _leaf_values(selection)]
    results = {}
    for request in asked:
        chosen = selection.chosen[request.id]
        dispositions = dict(selection.dispositions[request.id])
        if holders := [name for name, kept in still.items() if chosen.intersection(kept)]:
            dispositions["still_held_by"] = sorted(holders)
        salts = sorted(merkle.salt_of(selection.owner[s], s).hex() for s in chosen)
        receipts = shelf.put(json.dumps({"salts": salts, "values": values}).encode()).blob_id if chosen else None
        results[request.id] = {"dispositions": dispositions, "receipts": receipts}
    return results


def _leaf_values(selection: Selection) -> list[bytes]:
    return [merkle.value_of(merkle.salt_of(selection.owner[s], s), s) for s in sorted(selection.gone)]


def _set_facts(before: Before, selection: Selection, plan: Mapping[str, Any]) -> dict[str, Any]:
    commitment = merkle.commit(_leaf_values(selection))
    users = before.held.filter(pc.equal(before.held["role"], "user"))
    stay = users.filter(pc.invert(_among(users["sample_id"], selection.gone)))
    emptied = sorted(set(users["label"].to_pylist()) - set(stay["label"].to_pylist()))
    return {
        "count": commitment.count,
        "commitment": commitment.root,
        "dispositions": _total(selection),
        "emptied_classes": [plan["spec"]["classes"][label] for label in emptied],
    }


def _total(selection: Selection) -> dict[str, int]:
    """Distinct samples by disposition, over all requests of the job."""
    return dict(Counter(selection.words.values()))


def _among(column: Any, names: set[str]) -> Any:
    return pc.is_in(column, value_set=pa.array(list(names), pa.string()))
