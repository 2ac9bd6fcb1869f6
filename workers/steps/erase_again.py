"""Retraining a version from which attributes were removed: they are removed again, by the recorded recipes, and judged again."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from models.forget import retrain as theorem
from models.nets import Network
from workers import again, verdict
from workers.artifacts import Shelf
from workers.attributed import material, tables
from workers.judging import Asked, refuse_small_budget
from workers.points import recipe_of
from workers.refitting import core_on, refitted
from workers.removal import Wish, comparable, entry_of, evidence_of, judge, secret_of, utility_of
from workers.report import Report
from workers.steps.erase import published
from workers.trying import Best, Ground

TRAINING, AGAIN = "training the core", "removing attributes again"


def retrain(plan: Mapping[str, Any], shelf: Shelf, report: Report, keep: AbstractSet[str]) -> dict[str, Any]:
    """Train a new core without the samples that go, remove the attributes from it again, fit user weights.

    Nothing is published unless the probes, on rows that nothing is chosen by, find each attribute within the budget that it was once
    removed with: a retraining never brings one back.

    Args:
        keep: ids of the rows that stay.

    Raises:
        Failure: too few rows are left to train on, or to judge by.
    """
    report.phase(TRAINING)
    net = again.network(plan, (table for _, table in tables(plan, shelf, keep)), progress=report.progress)
    entries: list[dict[str, Any]] = []
    evidence: dict[str, Any] = {}
    utility: list[dict[str, Any]] = []
    for entry in plan["spec"]["erased"]:
        report.phase(AGAIN)
        ground = _ground(plan, shelf, report, keep, entry, net)
        refuse_small_budget(ground.rows, ground.asked, looks=ground.looks)
        best = _removed(ground, entry)
        judged, whole = judge(ground, best, None)
        wish = Wish(entry["name"], entry["data"], ground.asked, entry["method"], {})
        entries.append(entry_of(wish, ground, best, judged))
        files = evidence_of(shelf, wish, [judged.point], judged, [best.recipe])
        evidence |= {f"{len(entries)}-{name}": file for name, file in files.items()}
        refusal = verdict.refusal_of(judged, wish.asked)
        if refusal is not None:
            return {"refusal": _told(refusal), "tried": entries[-1], "evidence": evidence}
        utility, net = utility_of(ground, whole, None), best.net
    stated = theorem.proved_on_all if any(entry["data"] == "all" for entry in entries) else theorem.proved
    return published(plan, shelf, report, net, keep, entries, stated) | {"utility": utility, "evidence": evidence}


def _ground(
    plan: Mapping[str, Any], shelf: Shelf, report: Report, keep: AbstractSet[str], entry: Mapping[str, Any], net: Network
) -> Ground:
    spec, shape = plan["spec"], tuple(plan["dataset"]["shape"])
    asked = Asked(claim=entry["claim"], **entry["budget"])
    blocks = (table for _, table in tables(plan, shelf, keep))
    rows = material(blocks, entry["name"], data=entry["data"], shape=shape, classes=spec["classes"])
    core = core_on(spec, comparable(net), rows.core.samples, progress=lambda part, fraction: None)
    reference = refitted(core, rows.core.samples, lambda: tables(plan, shelf, keep), spec["classes"], progress=lambda number: None)
    blocks_of = lambda: tables(plan, shelf, keep)  # noqa: E731
    return Ground(plan, shelf, report, rows, asked, spec["classes"], net, reference, blocks_of, secret_of(plan))


def _removed(ground: Ground, entry: Mapping[str, Any]) -> Best:
    """Follow an attribute's recipe."""
    recipe = recipe_of(entry["recipe"])

    def tell(part: str, done: float) -> None:
        ground.report.progress("", 0.6 * done)

    net, heads = again.removed(recipe, ground.before, ground.rows, secret=ground.secret, progress=tell)
    return Best(recipe, 0.0, net, heads)


def _told(refusal: Mapping[str, str]) -> dict[str, str]:
    detail = (
        f"Trained again without the samples, the attribute would come back: {refusal['detail']} Method exact forgets user samples without "
        "training; for core samples fit a new model on the rows that stay, and remove the attribute from that."
    )
    return {"code": refusal["code"], "detail": detail}
