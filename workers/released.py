"""The membership audit of a linearised model: of a release that forgot, and of any version.

Shadows are fitted as its versions are, carry a release's noise, and forget by the model's own solver (`models/audit/noisy_shadows.py`).
The derivatives of all user rows are held in memory meanwhile: of a model for which they are too many, nothing is estimable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.audit import findings, membership
from models.audit.distance import linear_loss
from models.audit.noisy_shadows import FellShort, Played, Releasing, World, mislabelled, scores, shadows
from models.audit.utility import SMALLEST
from models.data import Samples
from models.forget import newton
from models.guarantee import Measured
from models.linear.summed import Expanded, core_sum, expand, fits
from models.linear.tangent import prepare
from models.linear.whole import logits
from models.progress import Progress
from service.policies import AUDITS
from workers import audit_figures
from workers.artifacts import Shelf
from workers.compared import MOST_COMPARED, REFITS, of_group, of_weights, relearnt, stated
from workers.documents import document
from workers.forgotten import Shown, told
from workers.judging import SEED
from workers.linearised import Held, Loaded, samples

MOST_LEARNT = 50
"""Attacked rows that are learnt again: of more, a random choice. A step costs the rows' whole derivatives."""

VERDICT = (
    "The verdict is the proved mu. What is found here decides nothing: a release that waited for it would depend on the forgotten samples, "
    "and mu would not hold."
)
LIMITS = (
    "These figures are computed from the forgotten samples themselves, so mu does not bound what they tell: they are for the auditor. "
    "Shadows start at a common fit, and forget from weights without noise. Where forgetting works, shadows that forgot hardly differ from "
    "those that never saw the samples: a version that has not forgotten is found by the shadows that have not, and by its distance."
)


class NotEstimable(Exception):
    """Why there is no attack on this model."""


@dataclass(frozen=True)
class Attacked:
    """An attack about to be made."""

    how: Releasing
    world: World
    aimed: Expanded
    groups: Mapping[str, Samples]
    """Rows that versions are compared on: the attacked ones first, kept ones of `half`, and audit rows of the final half."""
    pool: Tensor
    """Places of kept rows that the null's refits leave out; none of `half`."""


def prepared(how: Releasing, aimed: Samples, stay: Samples, core_rows: Samples, test: Samples, *, name: str) -> Attacked:
    """Compute the derivatives that shadows are fitted by.

    Args:
        aimed: the attacked user rows.
        stay: the user rows without them.
        name: of the attacked group.

    Raises:
        NotEstimable: the derivatives are too many.
    """
    core = how.core
    if not fits(core, len(aimed) + len(stay)):
        size = f"{len(aimed) + len(stay)} user rows, {core.classes} classes and {core.tangent.p} linearised weights"
        raise NotEstimable(f"Not estimable: {size} are too many for the hundreds of fits that this audit takes.")
    exact = core.tangent.double()

    def expanded(rows: Samples) -> Expanded:
        return expand(core, exact, prepare(core.tangent, rows.inputs), rows.labels)

    beneath = prepare(core.tangent, core_rows.inputs)
    order = torch.from_numpy(np.random.default_rng(SEED).permutation(len(stay)))
    half, pool = order[: len(stay) // 2], order[len(stay) // 2 :]
    groups = {name: aimed, "kept": stay.select(half)} | ({"test": test} if len(test) else {})
    return Attacked(how, World(expanded(stay), beneath, core_sum(core, exact, beneath)), expanded(aimed), groups, pool)


def played(one: Attacked, progress: Progress, *, groups: int | None = None, canaries: int) -> Played:
    """Fit the shadows.

    Args:
        groups: with the targets, and as many without; None takes the policy's numbers.

    Raises:
        FellShort: a shadow's solver gave up.
    """
    rules = AUDITS["audits"]["membership"]["linearised"]
    planted = mislabelled(one.how.core, one.world.kept, seed=SEED, count=canaries)
    seen, unseen = (groups, groups) if groups is not None else (rules["seen"], rules["unseen"])
    return shadows(one.how, one.world, one.aimed, planted, seed=SEED, seen=seen, unseen=unseen, progress=progress)


def beside(one: Attacked, versions: Mapping[str, Tensor], tell: Callable[[float], None]) -> tuple[list[Measured], dict[str, bytes]]:
    """Compare versions with a retrained one, which carries a release's noise as the null's refits do.

    Args:
        versions: weights `[p]` by name; the first was fitted on the attacked rows.

    Raises:
        FellShort: a refit's solver gave up.
    """
    how, kept, generator = one.how, one.world.kept, np.random.default_rng(SEED)
    sums = one.world.sums()
    bare = how.fit(sums.without(kept.pick(torch.arange(0))), torch.zeros_like(sums.side))
    others = []
    for number in range(REFITS):
        gone = torch.from_numpy(generator.choice(one.pool.numpy(), size=min(len(one.aimed), len(one.pool) // 2), replace=False))
        others.append(how.noised(how.fit(sums.without(kept.pick(gone)), bare), generator.bytes))
        tell(0.5 * (number + 1) / REFITS)
    compared = dict(versions) | {"retrained": how.noised(bare, generator.bytes)}
    readings = []
    for name, rows in one.groups.items():
        chosen = rows.select(torch.from_numpy(generator.permutation(len(rows))[:MOST_COMPARED]))

        def answers(weights: Tensor, chosen: Samples = chosen) -> Tensor:
            return logits(how.core, weights, chosen.inputs)

        readings += of_group(name, chosen.labels, answers, compared, others)
    learnt = one.aimed.pick(torch.from_numpy(generator.permutation(len(one.aimed))[:MOST_LEARNT]))
    if len(learnt) >= SMALLEST:
        loss, rate = linear_loss(learnt.flat, learnt.missed.flatten(), n=len(learnt))
        readings += relearnt(next(iter(one.groups)), loss, rate, len(learnt), compared, others)
    readings += of_weights(compared, others, len(kept))
    tell(1.0)
    return stated(readings)


# A removal ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Release:
    """A removal from a linearised model that is done and not yet published."""

    plan: Mapping[str, Any]
    shelf: Shelf
    model: Loaded
    """As it was before."""
    rows: Held
    """All that the model held."""
    user: frozenset[str]
    """Ids of the forgotten user rows."""
    gone: frozenset[str]
    """Ids of all that went, of every role."""
    after: Tensor
    """`[p]` float64: what is released."""
    mu: float
    most: int

    @property
    def counts(self) -> tuple[int, int]:
        """How many user rows went, and how many stay."""
        return len(self.user), len(self.rows.user) - len(self.user)


def attacked(removal: Release, progress: Progress) -> Shown:
    """Attack the forgotten samples in the version before and in the release, and compare both with one that is fitted again."""
    plan, model = removal.plan, removal.model
    how = releasing(plan, model, method=plan["method"], mu=removal.mu, most=removal.most)
    kept, classes = removal.rows.kept(removal.gone), plan["spec"]["classes"]
    aimed, stay, core_rows, test = (
        samples(table, plan, classes) for table in (removal.rows.named("user", removal.user), kept.user, kept.core, kept.audit)
    )
    rules = AUDITS["audits"]["membership"]
    try:
        one = prepared(how, aimed, stay, core_rows, test, name="forgotten")
        shown = played(one, lambda part, done: progress(part, 0.8 * done), canaries=rules["canaries"])
        more, files = beside(one, {"before": model.weights, "after": removal.after}, lambda done: progress("", 0.8 + 0.2 * done))
    except (NotEstimable, FellShort) as why:
        return Shown(told("membership", {"withheld": str(why)}), fitted=isinstance(why, FellShort))
    assert shown.forgotten is not None
    before, after = (scores(model.core, one.aimed, weights) for weights in (model.weights, removal.after))
    then, now = (membership.attack(score, shown.held, seed=SEED) for score in (before, after))
    then_by, now_by = (membership.attack(score, shown.forgotten, seed=SEED) for score in (before, after))
    planted = membership.attack(shown.planted, shown.canaries, seed=SEED)
    answer = membership.verdict(now_by, planted, held=now)
    said = [document(each) for each in (*findings.of_membership(now_by, answer, before=then_by, held=(now, then)), *more)]
    curves = audit_figures.curve(before, shown.held), audit_figures.curve(shown.planted, shown.canaries)
    files |= {
        "membership-before-roc.svg": audit_figures.roc(then, planted, curves),
        "membership-before-roc.csv": audit_figures.roc_csv(then, planted),
        "membership-after-roc.csv": audit_figures.roc_csv(now, planted),
        "membership-after-own-shadows-roc.csv": audit_figures.roc_csv(now_by, planted),
    }
    numbers = {"held": len(shown.held.seen), "forgotten": len(shown.forgotten.seen), "unseen": len(shown.held.unseen)}
    return Shown(told("membership", {"verdict": VERDICT, "limits": LIMITS, "shadows": numbers, "findings": said}) | files)


def releasing(plan: Mapping[str, Any], model: Loaded, *, method: str | None = None, mu: float = 0.0, most: int | None = None) -> Releasing:
    """How versions of a model are made."""
    release = plan["spec"]["release"]
    return Releasing(
        model.core,
        model.curvature,
        isotropic=release["noise"] == "isotropic",
        fitted_to=release["mu_max"],
        method=method,
        mu=mu,
        most=newton.MOST_PASSES if most is None else max(most, newton.MOST_PASSES),
    )
