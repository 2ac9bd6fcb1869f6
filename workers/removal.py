"""A removal as a whole: the version before made comparable, points tried, the chosen one judged, and what the record keeps of it."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.erase.scope import extended
from models.nets import Adapter, Network
from workers import verdict
from workers.artifacts import Shelf
from workers.bounds import gaps_of, interval_of
from workers.curve import Point, as_csv
from workers.failure import Failure
from workers.figures import trade_off
from workers.judging import Asked, dealt_anew, deciding, held, power
from workers.measure import cell
from workers.owning import own_head_of
from workers.points import Recipe
from workers.refitting import Refitted, counted, right_of
from workers.repeated import again_of
from workers.trying import Best, Ground, point
from workers.verdict import Judged, drop_of

FEWEST_ROWS = 20
"""Audit rows in the final half below which an accuracy is withheld, and so can decide nothing."""


@dataclass(frozen=True)
class Wish:
    """What one request asks for, once read."""

    name: str
    data: str
    asked: Asked
    method: str
    options: Mapping[str, Any]


def wish_of(body: Mapping[str, Any], method: str) -> Wish:
    """Read the sealed body of a request."""
    return Wish(body["name"], body["data"], Asked(claim=body["claim"], **body["budget"]), method, body.get("options") or {})


def comparable(net: Network) -> Network:
    """The same network with nothing removed, on the taps that an erased one may have."""
    return net if net.architecture.adapter is not None else extended(net, Adapter(kind="identity"), seed=0)


def secret_of(plan: Mapping[str, Any]) -> bytes:
    """What this job's adapter keys are made from: the same at every claim of it, and nobody else's to know."""
    return hmac.digest(bytes.fromhex(plan["secret"]), f"adapter|{plan['job']}".encode(), "sha256")


def judge(ground: Ground, best: Best, parent: Refitted | None) -> tuple[Judged, Refitted]:
    """Have the rows that decide judge a point. They are looked at here and nowhere else.

    Args:
        parent: the version before; None where it says nothing about this one, being trained otherwise.

    Raises:
        Failure: `audit_rows`.
    """
    rows, classes, asked = ground.rows, len(ground.classes), ground.asked
    decides = rows.decides.samples
    if len(decides) < FEWEST_ROWS:
        raise Failure("audit_rows", f"Fewer than {FEWEST_ROWS} audit rows are left to decide by. Upload more rows of role audit.")
    reference_net, whole = ground.reference.core.net, ground.refitted(best.net)
    assert reference_net is not None

    def tell(start: float, stop: float) -> Any:
        return lambda part, done: ground.report.progress("", start + (stop - start) * done)

    level = ground.level
    found = deciding(best.net, rows, classes=classes, level=level, progress=tell(0.0, 0.15))
    before = deciding(reference_net, rows, classes=classes, level=level, conditional=False, progress=tell(0.15, 0.3))
    planted = power(best.net, reference_net, rows, classes=classes, budget=asked.max_leakage_nats, progress=tell(0.3, 0.5))
    null = dealt_anew(best.net, rows, classes=classes, level=level, progress=tell(0.5, 0.7))
    right = right_of(whole, decides)
    lost = drop_of(right_of(ground.reference, decides), right)
    reached = point(best.recipe.name, "decides", found, accuracy=float(right.double().mean()), drop=lost.value, seconds=0.0, epochs=0)
    kind = str(best.recipe.settings.get("head", "linear"))
    own = own_head_of(best.heads, kind, held(best.net, rows.decides), values=len(rows.values), classes=classes)
    from_parent = drop_of(right_of(parent, decides), right) if parent is not None else None
    sizes = {"values": len(rows.values), "classes": classes}
    between = interval_of(best.net, rows.decides, found, **sizes)
    gaps = gaps_of(ground.reference, rows.decides, **sizes), gaps_of(whole, rows.decides, **sizes)
    again = again_of(ground, best, whole, progress=tell(0.7, 1.0))
    return Judged(reached, found, planted, null, lost, from_parent, before, own, between, gaps, ground.looks, again), whole


def entry_of(wish: Wish, ground: Ground, best: Best, judged: Judged) -> dict[str, Any]:
    """What the model's record keeps of an attribute that was removed, or that it was tried to remove."""
    recipe = best.recipe
    more = {"seed": recipe.seed} | ({"noise": recipe.noise} if recipe.noise else {})
    return {
        "name": wish.name,
        "values": len(ground.rows.values),
        "data": wish.data,
        "claim": wish.asked.claim,
        "budget": {"max_accuracy_drop": wish.asked.max_accuracy_drop, "max_leakage_nats": wish.asked.max_leakage_nats},
        "method": recipe.methods,
        "scope": recipe.scope,
        "parameters": verdict.parameters({**recipe.settings, **more}),
        "recipe": recipe.document(),
        "findings": verdict.stated(judged, wish.asked),
        "figures": verdict.figures(judged, wish.asked),
        "statement": None,
    }


def utility_of(ground: Ground, whole: Refitted, parent: Refitted | None) -> list[dict[str, Any]]:
    """Accuracy on the rows that decide: against the version before, and against the same taps with nothing removed."""
    rows = ground.rows.decides.samples
    after = cell(counted(right_of(whole, rows)))
    before = cell(counted(right_of(parent, rows))) if parent is not None else "withheld"
    compared = cell(counted(right_of(ground.reference, rows)))
    split = "audit (final half)"
    rows_of = {"split": split, "after": after, "retrained": after}
    return [
        {"metric": "accuracy", "before": before} | rows_of,
        {"metric": "accuracy, before: the same taps with nothing removed", "before": compared} | rows_of,
    ]


def evidence_of(shelf: Shelf, wish: Wish, points: list[Point], judged: Judged, recipes: list[Recipe]) -> dict[str, Any]:
    """The trade-off curve, drawn and as numbers, and all that the audit found."""
    least = judged.drop.reference - wish.asked.max_accuracy_drop
    report = {
        "attribute": wish.name,
        "budget": {"max_accuracy_drop": wish.asked.max_accuracy_drop, "max_leakage_nats": wish.asked.max_leakage_nats},
        "findings": verdict.stated(judged, wish.asked),
        "figures": verdict.figures(judged, wish.asked),
        "planted": [{"name": leak.name, "lower": leak.lower, "caught": leak.caught} for leak in judged.planted.leaks],
        "cells_left_out": [list(cell) for cell in judged.found.left_out],
        "points_planned": [recipe.name for recipe in recipes],
    }
    return {
        "trade-off.csv": shelf.put_file(as_csv(points)),
        "trade-off.svg": shelf.put_file(trade_off(points, attribute=wish.name, budget=wish.asked.max_leakage_nats, least_accuracy=least)),
        "audit.json": shelf.put_file(_json(report)),
    }


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()
