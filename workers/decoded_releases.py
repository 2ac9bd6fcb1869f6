"""The decoder's audit of a removal from a linearised model: what a noisy release tells of forgotten images, beside a retrained one.

The retrained version is fitted on the rows that stay, by the solver that versions are fitted by, and carries a release's noise of its own;
so do the refits of the null, which lack as many others. Decoders and planted leak are those of `workers/decoded.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from models.audit.decoder import HELD_OUT
from models.audit.noisy_shadows import FellShort
from models.data import Samples
from models.linear.tangent import prepare
from models.linear.whole import logits
from models.progress import Progress
from workers.audited import ids_of
from workers.decoded import TOO_FEW, Foretold, foretold, images_of
from workers.fitted import LINEARISED_REFITS
from workers.forgotten import Shown, told
from workers.judging import SEED
from workers.linearised import samples
from workers.released import Release, releasing
from workers.solved import Solved

REFITTING = 0.3
"""Share of the time that the refits take."""

RETRAINED = "The retrained version was fitted for this on the rows that stay, with a release's noise of its own."
VERDICT = (
    "The verdict is the proved mu; what is found here decides nothing. It is computed from the forgotten samples themselves, so mu does "
    "not bound what it tells."
)


def decoded(removal: Release, progress: Progress) -> Shown:
    """Foretell the forgotten images from what the version before, the release and a retrained version serve."""
    plan = removal.plan
    keep = ids_of(plan, removal.shelf) - removal.gone
    learn, judge = images_of(plan, removal.shelf, keep, removal.user)
    if len(learn) < 2 * HELD_OUT:
        return TOO_FEW
    try:
        versions = _versions(removal, lambda done: progress("", REFITTING * done))
    except FellShort as why:
        return Shown(told("decoder", {"withheld": str(why)}))
    core = removal.model.core

    def answers(weights: Tensor, rows: Samples) -> Tensor:
        return logits(core, weights, rows.inputs).float()

    served = {name: (answers(weights, learn), answers(weights, judge)) for name, weights in versions.items()}
    one = Foretold(learn, judge, served, than="retrained", seen=("before", "after"), note=RETRAINED)
    said = {"verdict": VERDICT, "retrained": RETRAINED}
    return foretold(one, said, lambda part, done: progress(part, REFITTING + (1 - REFITTING) * done))


def _versions(removal: Release, tell: Callable[[float], None]) -> dict[str, Tensor]:
    """User weights by name: before, after, retrained, and without as many others besides."""
    plan, kept, classes = removal.plan, removal.rows.kept(removal.gone), removal.plan["spec"]["classes"]
    stay, core_rows = (samples(part, plan, classes) for part in (kept.user, kept.core))
    how = releasing(plan, removal.model, most=removal.most)
    one = Solved(stay, how, prepare(how.core.tangent, core_rows.inputs), noisy=True)
    noise, generator = np.random.default_rng(SEED), np.random.default_rng(SEED + 1)
    many = min(len(removal.user), len(stay) // 2)
    others = (torch.from_numpy(generator.choice(len(stay), size=many, replace=False)) for _ in range(LINEARISED_REFITS))
    anew, besides = one.without(torch.arange(len(stay)), others, removal.after, noise, tell)
    return {"before": removal.model.weights, "after": removal.after, "retrained": anew} | besides
