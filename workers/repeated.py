"""What repeating a removal makes of its scores: the chosen point trained again, and user weights refitted on halves of the user samples.

Points that are trained again are looked at on the rows that choose. The rows that decide would show the caller, for one look, how other
seeds fare there.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from models.audit.interval import Interval
from models.audit.planted import OwnHead
from models.audit.probe import Probed
from models.audit.utility import SMALLEST
from models.nets import Network
from models.progress import Progress, silent
from service.policies import AUDITS
from workers.again import ELSEWHERE, removed
from workers.attributed import learns
from workers.bounds import Gaps, gaps_of, interval_of
from workers.failure import ENDS_EARLY, Failure, ended_early
from workers.judging import choosing, held
from workers.owning import own_head_of
from workers.refitting import Refitted, right_of
from workers.trying import Best, Ground

SAME = "A closed form: trained again from another seed it has the same bits."


@dataclass(frozen=True)
class Look:
    """What is found of a point on the rows that choose."""

    found: Probed
    between: Interval
    own: OwnHead | None
    drop: float | None
    """Right answers lost, as a fraction of the rows; stated where halves of the user samples say nothing."""
    gaps: Gaps | None
    """Between groups, where the same holds."""


@dataclass(frozen=True)
class Again:
    """What repeating a removal makes of the same scores: their null."""

    own: Look | None
    """Of the chosen point; None where the rows that choose are too few."""
    looks: tuple[Look, ...]
    """Of the same point trained again from other seeds."""
    why: str
    """Why these are fewer than were to be."""
    apart: float | None
    """Accuracy between refits with nothing removed, each on another half of the user rows."""
    gaps: tuple[tuple[Gaps, ...], tuple[Gaps, ...]]
    """Of such refits: with nothing removed, and after."""


def again_of(ground: Ground, best: Best, whole: Refitted, *, progress: Progress) -> Again:
    """Repeat what was chosen.

    Args:
        whole: the chosen point with user weights.
    """
    rows, saw = ground.rows, _saw_users(ground)
    own: Look | None
    looks: tuple[Look, ...]
    own, looks, why = None, (), ""
    try:  # the rows that decide have their answer: it does not hang on those that choose
        own = _look(ground, best.net, best.heads, best, whole if saw else None)
        looks, why = _trained_again(ground, best, saw, progress)
    except Failure as error:
        why = error.detail
    if saw:  # user weights refitted on a half of them are then no retraining
        return Again(own, looks, why, None, ((), ()))
    halves = [float(right_of(half, rows.decides.samples).double().mean()) for half in ground.reference.halves()]
    apart = abs(halves[0] - halves[1]) if halves else None
    sizes = {"values": len(rows.values), "classes": len(ground.classes)}
    before, after = (tuple(gaps_of(half, rows.decides, **sizes) for half in model.halves()) for model in (ground.reference, whole))
    return Again(own, looks, why, apart, (before, after))


def _look(ground: Ground, net: Network, heads: Mapping[str, Tensor], best: Best, whole: Refitted | None) -> Look:
    """Look at a point on the rows that choose.

    Args:
        whole: the point with user weights, where accuracy and gaps are asked for.
    """
    rows, some = ground.rows, ground.rows.chooses
    judged = some.known.select(~learns(some.known))  # as `choosing` divides them
    sizes = {"values": len(rows.values), "classes": len(ground.classes)}
    found = choosing(net, rows, classes=len(ground.classes), level=ground.level, progress=silent)
    between, kind = interval_of(net, judged, found, **sizes), str(best.recipe.settings.get("head", "linear"))
    own = own_head_of(heads, kind, held(net, judged), **sizes)
    if whole is None or len(some) < SMALLEST:
        return Look(found, between, own, None, None)
    right, compared = (float(right_of(model, some.samples).double().mean()) for model in (whole, ground.reference))
    return Look(found, between, own, compared - right, gaps_of(whole, some, **sizes))


def _trained_again(ground: Ground, best: Best, saw: bool, progress: Progress) -> tuple[tuple[Look, ...], str]:
    """Look at the chosen point where it is trained again from other seeds. Returns also why there are fewer than were to be."""
    times, recipe = AUDITS["audits"]["probes"]["retrainings"], best.recipe
    if recipe.method == "leace" and not recipe.noise:
        return (), SAME
    found: list[Look] = []

    def partly(done: int) -> Progress:
        return lambda part, fraction: progress("", (done + fraction) / times)

    for number in range(1, times + 1):
        secret = hmac.digest(ground.secret, f"trained again {number}".encode(), "sha256")
        other = replace(recipe, seed=recipe.seed + ELSEWHERE + number)
        try:
            net, heads = removed(other, ground.before, ground.rows, secret=secret, progress=partly(len(found)))
            found.append(_look(ground, net, heads, best, ground.refitted(net) if saw else None))
        except ENDS_EARLY as error:  # what is published does not depend on how another seed fares
            return tuple(found), ended_early(error)
    return tuple(found), ""


def _saw_users(ground: Ground) -> bool:
    """Whether the network was trained on user samples."""
    earlier = any(entry["data"] == "all" for entry in ground.plan["spec"].get("erased") or ())
    return earlier or len(ground.rows.trained) > len(ground.rows.core)
