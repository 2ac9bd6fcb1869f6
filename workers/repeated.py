"""What repeating a removal makes of its scores: the chosen point trained again, and user weights refitted on halves of the user samples.

Points that are trained again are probed on the rows that choose. The rows that decide would show the caller, for one look, how other seeds
fare there. Of a removal that is refused nothing is repeated, for the same reason.
"""

from __future__ import annotations

import hmac
from dataclasses import replace

from models.audit.probe import Probed
from models.progress import Progress, silent
from service.policies import AUDITS
from workers.again import removed
from workers.bounds import gaps_of
from workers.failure import Failure, ended_early
from workers.judging import choosing
from workers.refitting import Refitted, right_of
from workers.trying import Best, Ground
from workers.verdict import Again

SAME = "A closed form: trained again from another seed it has the same bits."


def again_of(ground: Ground, best: Best, whole: Refitted, *, progress: Progress) -> Again:
    """Repeat what was chosen.

    Args:
        whole: the chosen point with user weights.
    """
    rows, classes = ground.rows, len(ground.classes)
    own = choosing(best.net, rows, classes=classes, level=ground.level, progress=silent)
    found, why = _trained_again(ground, best, progress)
    if _saw_users(ground):
        return Again(own, found, why, None, ((), ()))
    halves = [float(right_of(half, rows.decides.samples).double().mean()) for half in ground.reference.halves()]
    apart = abs(halves[0] - halves[1]) if halves else None
    before, after = (tuple(gaps_of(half, rows, classes=classes) for half in model.halves()) for model in (ground.reference, whole))
    return Again(own, found, why, apart, (before, after))


def _trained_again(ground: Ground, best: Best, progress: Progress) -> tuple[tuple[Probed, ...], str]:
    """Probe the chosen point where it is trained again from other seeds. Returns also why there are fewer than were to be."""
    times, recipe = AUDITS["audits"]["probes"]["retrainings"], best.recipe
    if recipe.method == "leace" and not recipe.noise:
        return (), SAME
    found: list[Probed] = []
    for number in range(1, times + 1):
        secret = hmac.digest(ground.secret, f"trained again {number}".encode(), "sha256")
        other = replace(recipe, seed=recipe.seed + number)
        try:
            net, _ = removed(other, ground.before, ground.rows, secret=secret, progress=silent)
            found.append(choosing(net, ground.rows, classes=len(ground.classes), level=ground.level, progress=silent))
        except (Failure, ValueError) as error:  # what is published does not depend on how another seed fares
            return tuple(found), ended_early(error)
        progress("", number / times)
    return tuple(found), ""


def _saw_users(ground: Ground) -> bool:
    """Whether the network was trained on user samples: user weights refitted on a half of them are then no retraining."""
    earlier = any(entry["data"] == "all" for entry in ground.plan["spec"].get("erased") or ())
    return earlier or len(ground.rows.trained) > len(ground.rows.core)
