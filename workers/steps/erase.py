"""An attribute is removed: points are tried, the chosen one judged on rows that nothing was chosen by, and published or refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from torch import Tensor

from models.forget import exact, retrain
from models.guarantee import Proved
from models.linear.core import load_core
from models.linear.statistics import Statistics
from models.nets import Network
from workers import verdict
from workers.artifacts import Shelf, unpack_statistics, unpack_table, unpack_weights
from workers.attributed import material, tables
from workers.failure import Failure
from workers.judging import refuse_small_budget
from workers.parts import Split
from workers.points import Recipe, points_of
from workers.recipe import architecture_of, hyperparameters
from workers.refitting import Refitted, core_on, plain, refitted
from workers.removal import comparable, entry_of, evidence_of, judge, secret_of, utility_of, wish_of
from workers.report import Report
from workers.steps.fit import facts_of, fit_rows, write
from workers.trying import Ground, Tries, phase_of

REFERENCE, JUDGING = "refitting with nothing removed", "judging"
EMPTY = hashlib.sha256(b"").hexdigest()
"""The Merkle root over no sample: removing an attribute forgets none."""


def erase(plan: Mapping[str, Any], shelf: Shelf, report: Report) -> dict[str, Any]:
    """Remove one attribute from a model, as one request asks."""
    (request,) = plan["requests"]
    wish = wish_of(json.loads(shelf.vault.read(request["body"])), plan["method"])
    spec = plan["spec"]
    report.plan = shares([])
    report.phase("loading")
    keep = set(unpack_table(shelf.vault.read(plan["state"]["index"]))["sample_id"].to_pylist())
    parent = parent_of(plan, shelf)
    net = parent.core.net
    if net is None:
        raise Failure("no_network", "A model with core `none` has no bottleneck.")
    shape, classes = tuple(plan["dataset"]["shape"]), spec["classes"]
    rows = material((table for _, table in tables(plan, shelf, keep)), wish.name, data=wish.data, shape=shape, classes=classes)
    refuse_small_budget(rows, wish.asked, looks=int(plan["looks"]))
    before, learnt, values = bool(spec.get("erased")), rows.trained, len(rows.values)
    recipes = points_of(wish.method, wish.options, rows=learnt, values=values, claim=wish.asked.claim, erased_before=before)
    report.plan = shares(recipes)
    report.phase(REFERENCE)
    core = core_on(spec, comparable(net), rows.core.samples, progress=report.progress)
    reference = refitted(core, rows.core.samples, lambda: tables(plan, shelf, keep), classes, progress=lambda number: None)
    ground = Ground(plan, shelf, report, rows, wish.asked, classes, net, reference, lambda: tables(plan, shelf, keep), secret_of(plan))
    tries = Tries(ground, recipes)
    tries.run()
    best = tries.best
    assert best is not None
    report.phase(JUDGING)
    judged, whole = judge(ground, best, parent)
    entry = entry_of(wish, ground, best, judged)
    evidence = evidence_of(shelf, wish, [*tries.points, judged.point], judged, recipes)
    refusal = verdict.refusal_of(judged, wish.asked)
    if refusal is not None:
        return _refused(request["id"], entry, evidence, refusal, report)
    erased = [*spec.get("erased", []), entry]
    stated = retrain.proved_on_all if any(one["data"] == "all" for one in erased) else exact.proved
    outcome = published(plan, shelf, report, best.net, keep, erased, stated)
    return outcome | {
        "method": entry["method"],
        "parent": plan["parent"],
        "utility": utility_of(ground, whole, parent),
        "evidence": evidence,
        "requests": {request["id"]: {"dispositions": answer_of(entry, "removed"), "guarantee": given(entry)}},
        "tombstones": [],
        "dataset_blocks": [],
        "dataset_index": None,
        "summary": None,
        "facts": outcome["facts"] | {"count": 0, "commitment": EMPTY, "dispositions": {}, "emptied_classes": []},
        "seconds": report.end(),
    }


def shares(recipes: list[Recipe]) -> dict[str, float]:
    """Phases, and rough shares of the time; points that are not needed leave theirs over."""
    tried = {phase_of(number, recipe): 6.0 if recipe.scope == "network" else 2.0 for number, recipe in enumerate(recipes)}
    ending = {JUDGING: 4.0, "fitting the core's linear part": 0.3, "encoding rows": 0.5, "solving": 0.1, "writing": 0.1}
    return {"loading": 0.1, REFERENCE: 0.5} | tried | ending


def parent_of(plan: Mapping[str, Any], shelf: Shelf) -> Refitted:
    """The version before."""
    vault, files, spec = shelf.vault, plan["files"], plan["spec"]
    form = architecture_of(spec, tuple(plan["dataset"]["shape"]), len(spec["classes"]))
    return Refitted(
        core=load_core(form, unpack_weights(vault.read(files["core.safetensors"]["blob"]))),
        statistics=unpack_statistics(vault.read(plan["state"]["statistics"])),
        weights=unpack_weights(vault.read(files["user.safetensors"]["blob"]))["user.weight"],
    )


def published(
    plan: Mapping[str, Any],
    shelf: Shelf,
    report: Report,
    net: Network,
    keep: AbstractSet[str],
    erased: list[dict[str, Any]],
    stated: Callable[[Statistics, Tensor], Proved],
) -> dict[str, Any]:
    """Write the version of an erased network: its core, and user weights from integer rows that later requests can take out again.

    Args:
        keep: ids of the rows that the model holds.
        erased: what the record is to say of every attribute removed so far.
        stated: what is proved of the weights.
    """
    before = plan["spec"]
    spec = dict(before) | {
        "architecture": plain(net.architecture),
        "erased": erased,
        "before_erasing": before.get("before_erasing") or before["architecture"],
    }
    fitted = fit_rows({**plan, "spec": spec, "groups": None}, shelf, report, keep=set(keep), given=dict(net.state_dict()))
    assert not isinstance(fitted, Split)
    report.phase("writing")
    files, state = write(fitted, shelf, plan)
    rewritten = {block["number"] for block in fitted.blocks}
    return {
        "files": files,
        "state": state,
        "blocks": fitted.blocks + [{"number": n, "blob": "", "rows": 0} for n, _ in plan["blocks"] if n not in rewritten],
        "spec": spec | {"resolved": hyperparameters(spec, fitted.core, fitted.core_rows)},
        "facts": facts_of(fitted.core, fitted.classes, stated(fitted.statistics, fitted.weights), files),
    }


def answer_of(entry: Mapping[str, Any], disposition: str) -> dict[str, Any]:
    """What the caller is told: no sample was forgotten, and what became of the attribute."""
    told = {key: entry[key] for key in ("name", "values", "method", "scope", "data", "claim", "budget", "findings", "figures")}
    return {"counts": {}, "attribute": {"disposition": disposition} | told}


def given(entry: Mapping[str, Any]) -> dict[str, str]:
    """What was reached, by metric."""
    return {"name": "attribute_removed"} | {finding["metric"]: finding["value"] for finding in entry["findings"]}


def _refused(request: str, entry: dict[str, Any], evidence: dict[str, Any], refusal: dict[str, str], report: Report) -> dict[str, Any]:
    return {
        "nothing": True,
        "refusal": refusal,
        "tried": entry,
        "evidence": evidence,
        "requests": {request: {"dispositions": answer_of(entry, "refused")}},
        "facts": {"dispositions": {}},
        "seconds": report.end(),
    }
