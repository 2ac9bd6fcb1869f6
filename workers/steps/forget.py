"""Samples are forgotten: requests resolved, the model's own method run, the data set's blocks rewritten without the rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from expunge import merkle
from expunge.statement import PROVED_DIGESTS
from workers import slopes
from workers.artifacts import Shelf, among, pack_table, summary_of, unpack_table
from workers.beside import shares
from workers.census import census
from workers.report import Report
from workers.selection import Asked, Memory, Selection, select, subjects_emptied
from workers.steps import erase_again, exact, linearised

_SHORT = {"loading": 0.2, "forgetting": 0.3, "measuring": 0.1, "writing": 0.2, "erasing rows": 0.2}
_LONG = {"loading": 0.2, "training the core": 6.0, "encoding rows": 3.0, "fitting user weights": 3.0} | _SHORT
_SOLVED = _SHORT | {"forgetting": 5.0}
_SHARES = {"exact": _SHORT, "zero": _SHORT, "retrain": _LONG, "cg": _SOLVED, "sgd": _SOLVED}
"""Phases of each method and rough shares of its time."""


def forget(plan: Mapping[str, Any], shelf: Shelf, report: Report) -> dict[str, Any]:
    """Carry out all requests of one job at once."""
    bodies = shelf.vault.read_each([request["body"] for request in plan["requests"]])
    asked = [_asked(request["id"], json.loads(body)) for request, body in zip(plan["requests"], bodies, strict=True)]
    again = {erase_again.AGAIN: 4.0} if plan["method"] == "retrain" and plan["spec"].get("erased") else {}
    summing = {slopes.PHASE: 3.0} if plan["method"] == "cg" and plan.get("groups") else {}
    report.plan = _SHARES[plan["method"]] | summing | again | shares({name for request in asked for name in request.audits})
    report.resume(plan)
    report.phase("loading")
    index, held = (unpack_table(shelf.vault.read(blob)) for blob in (plan["dataset"]["index"], plan["state"]["index"]))
    memory = Memory(bytes.fromhex(plan["secret"]), plan["model_id"], frozenset(plan["tombstones"]))
    roles = dict(zip(held["sample_id"].to_pylist(), held["role"].to_pylist(), strict=True))
    selection = select(asked, index=index, held=roles, memory=memory, core_too=plan["method"] == "retrain")
    if not selection.gone:
        return _nothing(selection, {}, report)
    methods = linearised.METHODS if plan["spec"].get("linearize") else exact.METHODS
    outcome = {"method": plan["method"]} | methods[plan["method"]](plan, shelf, report, held, selection, asked)
    if "split" in outcome:
        return outcome
    if "refusal" in outcome:
        return _nothing(_refused(selection), outcome, report)
    report.phase("erasing rows")
    erased, still = _erase_from_dataset(plan, shelf, index, selection)
    tags = {memory.tag("sample", s) for s in selection.gone} | {memory.tag("subject", s) for s in subjects_emptied(index, selection.gone)}
    return (
        outcome
        | erased
        | {
            "parent": plan["parent"],
            "facts": outcome["facts"] | _set_facts(held, selection, plan),
            "requests": _results(asked, selection, shelf, still, _given(outcome)),
            "tombstones": sorted(tags - memory.tags),
            "seconds": report.end(),
        }
    )


def _asked(name: str, body: Mapping[str, Any]) -> Asked:
    return Asked(
        id=name,
        kind=body["kind"],
        ids=tuple(body.get("ids", ())),
        subjects=tuple(body.get("subjects", ())),
        where=body.get("where"),
        seed=bytes.fromhex(body["seed"]),
        guarantee=body.get("guarantee"),
        audits=tuple(body.get("audits", ())),
        most_passes=(body.get("options") or {}).get("most_passes"),
    )


def _nothing(selection: Selection, outcome: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """No version: there was nothing to forget, or the method refused."""
    return {
        **outcome,
        "nothing": True,
        "requests": {r: {"dispositions": d} for r, d in selection.dispositions.items()},
        "seconds": report.end(),
        "facts": {"dispositions": _total(selection)},
    }


def _refused(selection: Selection) -> Selection:
    """The same requests, with every sample refused that would have been forgotten."""

    def said(answer: Any) -> Any:
        if isinstance(answer, dict):
            return {said(word): said(value) for word, value in answer.items()}
        if isinstance(answer, list):
            return [said(value) for value in answer]
        return "refused" if answer == "forgotten" else answer

    return Selection(dispositions=said(selection.dispositions), words=said(selection.words))


# What goes from the data set, and what is told ------------------------------------------------------------------------


def _erase_from_dataset(
    plan: Mapping[str, Any], shelf: Shelf, index: pa.Table, selection: Selection
) -> tuple[dict[str, Any], dict[str, set[str]]]:
    """Rewrite the data set's blocks without the rows that no model holds any more. Returns also what other models still hold."""
    still: dict[str, set[str]] = {}
    for other in plan["others"]:
        names = set(unpack_table(shelf.vault.read(other["index"]))["sample_id"].to_pylist())
        if kept := names & selection.gone:
            still[other["name"]] = kept
    erasable = selection.gone.difference(*still.values())
    leaving = among(index["sample_id"], erasable)
    touched, numbers = set(index.filter(leaving)["block"].to_pylist()), dict(plan["dataset"]["blocks"])
    blocks = []
    for number in sorted(touched):
        table = unpack_table(shelf.vault.read(numbers[number]))
        kept_rows = table.filter(pc.invert(among(table["sample_id"], erasable)))
        blob = shelf.put(pack_table(kept_rows)).blob_id if len(kept_rows) else ""
        blocks.append({"number": number, "blob": blob, "rows": len(kept_rows)})
    index = index.filter(pc.invert(leaving))
    said = {"text_labels": plan["dataset"]["text_labels"], "census": census(index)} if touched else {}
    summary = summary_of(index, tuple(plan["dataset"]["shape"])) | said
    return {"dataset_blocks": blocks, "dataset_index": shelf.put(pack_table(index)).blob_id if touched else None, "summary": summary}, still


def _results(
    asked: list[Asked], selection: Selection, shelf: Shelf, still: Mapping[str, set[str]], given: Mapping[str, str]
) -> dict[str, Any]:
    """Dispositions, receipts and what is guaranteed, by request. Receipts hold salts and leaf values, no ids."""
    results: dict[str, Any] = {}
    salts = {r.id: sorted(merkle.salt_of(selection.owner[s], s).hex() for s in selection.chosen[r.id]) for r in asked}
    kept = {"salts": salts, "values": [v.hex() for v in _leaf_values(selection)]}
    # One blob for all requests of the job: each holding every leaf value would grow with the square of what is asked together.
    receipts = shelf.put(json.dumps(kept).encode()).blob_id if any(salts.values()) else None
    for request in asked:
        chosen = selection.chosen[request.id]
        dispositions = dict(selection.dispositions[request.id])
        if holders := [name for name, held in still.items() if chosen.intersection(held)]:
            dispositions["still_held_by"] = sorted(holders)
        results[request.id] = {"dispositions": dispositions, "receipts": receipts if chosen else None, "guarantee": dict(given)}
    return results


def _given(outcome: Mapping[str, Any]) -> dict[str, str]:
    """What is proved of the new version: its name and numbers."""
    (proved,) = outcome["facts"]["guarantees"]
    return {"name": proved["name"]} | {k: v for k, v in proved["value"].items() if k not in PROVED_DIGESTS}


def _leaf_values(selection: Selection) -> list[bytes]:
    return [merkle.value_of(merkle.salt_of(selection.owner[s], s), s) for s in sorted(selection.gone)]


def _set_facts(held: pa.Table, selection: Selection, plan: Mapping[str, Any]) -> dict[str, Any]:
    commitment = merkle.commit(_leaf_values(selection))
    users = held.filter(pc.equal(held["role"], "user"))
    stay = users.filter(pc.invert(among(users["sample_id"], selection.gone)))
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
