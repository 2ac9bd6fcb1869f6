"""The audit of whoever holds two versions of a linearised model, released with noise; beside the same without noise.

The null is the same attacker's reading of these rows where as many others were forgotten instead, by conjugate gradients to the same mu and
with noise drawn anew, from the version before. Of a model whose derivatives are too many to hold, nothing stands beside what was released.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.audit import findings
from models.audit.differencing import Differencing, differencing
from models.audit.noisy_shadows import FellShort
from models.linear.curvature import RandomBytes
from models.linear.summed import Expanded, Summed
from models.linear.whole import logits
from models.progress import Progress
from workers.differenced import MOST_KEPT, beside, shown
from workers.forgotten import Shown
from workers.judging import SEED
from workers.linearised import samples
from workers.released import Attacked, NotEstimable, Release, prepared, releasing

GROUPS = 8
"""Removals of other rows that the null is taken from: a solve each."""

LIMITS = (
    "This is what one who holds both versions can tell. The version before is withdrawn and its weights are destroyed, so that nobody but "
    "who took a copy of it does; what is left to others is told beside. The noise of the release is what mu counts on: it stands between "
    "this version and one that is fitted without the samples, not between this version and the one before. These figures are computed from "
    "the forgotten samples themselves: they are for the auditor."
)


def differenced(removal: Release, progress: Progress) -> Shown:
    """Tell the forgotten from the kept by both versions' answers to them."""
    plan, model = removal.plan, removal.model
    core, kept, classes = model.core, removal.rows.kept(removal.gone), plan["spec"]["classes"]
    aimed, stay, core_rows, test = (
        samples(part, plan, classes) for part in (removal.rows.named("user", removal.user), kept.user, kept.core, kept.audit)
    )
    generator = np.random.default_rng(SEED)
    places = torch.from_numpy(np.sort(generator.permutation(len(stay))[:MOST_KEPT]))
    inputs, labels = (torch.cat([one, other[places]]) for one, other in ((aimed.inputs, stay.inputs), (aimed.labels, stay.labels)))
    gone = torch.arange(len(labels)) < len(aimed)
    before, after = (logits(core, weights, inputs).double() for weights in (model.weights, removal.after))
    found = differencing(before, after, labels, gone)
    stated, limits = findings.of_differencing(found, noise=True), LIMITS
    null: list[Differencing] = []
    fitted = False
    try:
        how = releasing(plan, model, method=plan["method"], mu=removal.mu, most=removal.most)
        others = Others(prepared(how, aimed, stay, core_rows, test, name="forgotten"), model.weights, places, labels)
        fitted = True
        null = others.null(generator.bytes, progress)
        stated = findings.of_differencing(found, null, noise=True)
        stated.append(findings.without_noise(*others.quiet(progress)))
    except (NotEstimable, FellShort) as why:
        limits = f"{LIMITS} Not all that is to stand beside could be computed. {why}"
    return shown(found, null, stated, limits, fitted=fitted)


@dataclass(frozen=True)
class Others:
    """Versions that were not released: other removals, and this one without noise."""

    one: Attacked
    start: Tensor
    """`[p]`: the version before."""
    places: Tensor
    """Of the kept rows that the attacked ones are told from."""
    labels: Tensor
    """Of the attacked rows and of these."""

    def answers(self, weights: Tensor) -> Tensor:
        """Logits of the attacked rows, then of the kept ones."""
        core, kept = self.one.how.core, self.one.world.kept.pick(self.places)
        return torch.cat([self.one.aimed.logits(core, weights), kept.logits(core, weights)])

    def null(self, random_bytes: RandomBytes, progress: Progress) -> list[Differencing]:
        """Have as many other rows forgotten from the version before, and released.

        Raises:
            FellShort: a solver gave up.
        """
        forget, start = self.one.how.forget, self.start
        return self._null(start, lambda loss: forget(loss, start, random_bytes), partly(progress, 0.0))

    def quiet(self, progress: Progress) -> tuple[Differencing, list[Differencing]]:
        """Solve both versions without noise, and attack them; then the null of it: the same others forgotten, without noise too.

        Raises:
            FellShort: a solver gave up.
        """
        one, alone = self.one, self.one.world.sums()
        held = one.how.fit(alone.plus(one.aimed).without(self._nobody), self.start)
        forgot = one.how.fit(alone.without(self._nobody), held)
        aimed = torch.arange(len(self.labels)) < len(one.aimed)
        found = differencing(self.answers(held), self.answers(forgot), self.labels, aimed)
        return found, self._null(held, lambda loss: one.how.fit(loss, held), partly(progress, 0.5))

    @property
    def _nobody(self) -> Expanded:
        return self.one.world.kept.pick(torch.arange(0))

    def _null(self, start: Tensor, forget: Callable[[Summed], Tensor], tell: Callable[[float], None]) -> list[Differencing]:
        before, found = self.answers(start), []
        for gone, after in self.removals(forget):
            found.append(beside(before, after, self.labels, len(self.one.aimed), torch.isin(self.places, gone)))
            tell(len(found) / GROUPS)
        return found

    def removals(self, forget: Callable[[Summed], Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the places of others that are forgotten, the same ones each time, and what the version without them answers.

        Args:
            forget: from the loss without them to that version's weights.
        """
        one, stay, generator = self.one, self.one.world.kept, np.random.default_rng(SEED + 1)
        everybody, many = one.world.sums().plus(one.aimed), min(len(one.aimed), len(stay) // 2)
        for _ in range(GROUPS):
            gone = torch.from_numpy(generator.choice(len(stay), size=many, replace=False))
            yield gone, self.answers(forget(everybody.without(stay.pick(gone))))


def partly(progress: Progress, begun: float) -> Callable[[float], None]:
    """Half of the audit, from `begun` on."""
    return lambda done: progress("", begun + 0.5 * done)
