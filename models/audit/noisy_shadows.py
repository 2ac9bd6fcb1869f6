"""Shadow models of a linearised network: released with its noise, and made to forget by its own solver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.audit.membership import Shadows, phi
from models.audit.shadows import MOST_DROPPED, PHASE, SHARE_DROPPED
from models.forget.newton import MOST_PASSES, release
from models.linear.curvature import Curvature
from models.linear.descent import Descent, cg, sgd
from models.linear.quadratic import Quadratic
from models.linear.summed import Expanded, Summed, Sums
from models.linear.whole import WholeCore
from models.progress import Progress, Stop, check, never, silent

SEEN, UNSEEN = 32, 100
"""Models with the targets and without. 32 is the least that an attack takes; of 100 retrained ones a limit is what one in 100 exceeds. A
model with the targets costs two solves where it then forgets them, one without costs one: all in all 164."""


class FellShort(ValueError):
    """A shadow's solver stopped before the guarantee was met: it is no release, and nothing is estimable."""


@dataclass(frozen=True)
class Releasing:
    """How versions of this model are made."""

    core: WholeCore
    curvature: Curvature
    isotropic: bool

    fitted_to: float
    """The mu that a fit goes down to."""

    method: str | None = None
    """`cg` or `sgd`: how a version forgot. None: it forgot nothing, and neither do shadows."""

    mu: float = 0.0
    """The mu that it was made to forget to."""

    most: int = MOST_PASSES
    """Passes after which a solver gives up."""

    @property
    def shape(self) -> Curvature:
        """M, the shape of the noise."""
        return self.curvature.flat() if self.isotropic else self.curvature

    def fit(self, loss: Summed | Quadratic, start: Tensor) -> Tensor:
        """Return weights `[p]` float64 within the fit's error of the minimiser.

        Raises:
            FellShort: the solver gave up.
        """
        target = self.fitted_to * self.core.sigma
        return _arrived(cg(loss, start, self.curvature, shape=self.shape, target=target, most=self.most)).w

    def noised(self, weights: Tensor, random_bytes: Callable[[int], bytes]) -> Tensor:
        """Add a release's noise to `weights` `[p]`, and round as a release is rounded."""
        return (weights + self.core.sigma * self.shape.draw(random_bytes)).float().double()

    def forget(self, loss: Summed | Quadratic, start: Tensor, random_bytes: Callable[[int], bytes]) -> Tensor:
        """Return released weights `[p]`, made to forget from `start` what `loss` lacks.

        Raises:
            FellShort: the solver gave up.
        """
        how: dict[str, Any] = {"shape": self.shape, "target": self.mu * self.core.sigma, "most": self.most}
        found = sgd(loss, start, self.curvature, **how) if isinstance(loss, Quadratic) else cg(loss, start, self.curvature, **how)
        weights = release(_arrived(found), self.shape, sigma=self.core.sigma, random_bytes=random_bytes).weights
        assert weights is not None
        return weights.double()


@dataclass(frozen=True)
class World:
    """Rows that all shadows share."""

    kept: Expanded
    """User rows that stay, at least 4."""

    core_rows: Tensor
    """`[m, ...]` prepared."""

    core_sum: Tensor
    """K `[p, p]`, of the core rows and L."""

    def sums(self) -> Sums:
        """H and the right side over core rows and the rows that stay."""
        return Sums(self.core_sum, torch.zeros(len(self.core_sum), dtype=torch.float64), (0, len(self.core_rows))).plus(self.kept)


@dataclass(frozen=True)
class Played:
    """Shadow scores of the targets and of planted canaries. What is called unseen are the same models in all three."""

    forgotten: Shadows | None
    """Targets: models trained with them and made to forget them since, against models that never had them. None: nothing forgets."""

    held: Shadows
    """Targets: models trained with them, which have not forgotten."""

    canaries: Shadows
    """Canaries, by the same models that hold the targets."""

    planted: Tensor
    """`[m]` phi of the canaries in a version trained with them as well, and made to forget nothing."""


def scores(core: WholeCore, rows: Expanded, weights: Tensor) -> Tensor:
    """Return phi `[k]` of rows under user weights `[p]`."""
    return phi(rows.logits(core, weights), rows.labels)


def shadows(
    how: Releasing,
    world: World,
    targets: Expanded,
    canaries: Expanded,
    *,
    seed: int,
    seen: int = SEEN,
    unseen: int = UNSEEN,
    progress: Progress = silent,
    stop: Stop = never,
) -> Played:
    """Fit without random groups of kept rows, with the targets and canaries and without them; and have the former forget them.

    Each fit starts at that of all rows, within the same error of its own minimiser as a version's. All models, the null's included, carry
    a release's noise, drawn anew. A solver begins at weights without noise, as where a first version forgets.

    Args:
        canaries: copies of rows with wrong labels.
        seen: models with the targets; `unseen`: without them, no fewer. At least 32 of each.
        seed: of the groups and of the noise: shadows are no release, and another run gives the same figures.

    Raises:
        FellShort: a shadow's solver gave up.
    """
    core, generator = how.core, np.random.default_rng(seed)
    alone = world.sums()
    whole = alone.plus(targets).plus(canaries)
    nobody = torch.arange(0)
    bare = how.fit(alone.without(world.kept.pick(nobody)), torch.zeros_like(alone.side))
    full = how.fit(whole.without(world.kept.pick(nobody)), bare)
    dropped = min(MOST_DROPPED, len(world.kept) // SHARE_DROPPED)
    never_had: list[tuple[Tensor, Tensor]] = []
    had: list[tuple[Tensor, Tensor]] = []
    forgot: list[Tensor] = []
    for number in range(unseen):
        check(stop)
        chosen = torch.from_numpy(generator.choice(len(world.kept), size=dropped, replace=False))
        gone = world.kept.pick(chosen)
        without = alone.without(gone)
        weights = how.noised(how.fit(without, bare), generator.bytes)
        never_had.append((scores(core, targets, weights), scores(core, canaries, weights)))
        if number < seen:
            held = how.fit(whole.without(gone), full)
            weights = how.noised(held, generator.bytes)
            had.append((scores(core, targets, weights), scores(core, canaries, weights)))
            if how.method is not None:
                loss = without if how.method == "cg" else _autodiff(core, world, chosen)
                forgot.append(scores(core, targets, how.forget(loss, held, generator.bytes)))
        progress(PHASE, (number + 1) / unseen)
    by = [Shadows(torch.stack([s[i] for s in had]), torch.stack([u[i] for u in never_had])) for i in (0, 1)]
    after = Shadows(torch.stack(forgot), by[0].unseen) if forgot else None
    return Played(after, by[0], by[1], scores(core, canaries, how.noised(full, generator.bytes)))


def mislabelled(core: WholeCore, rows: Expanded, *, seed: int, count: int = 50) -> Expanded:
    """Copy some rows under wrong labels: canaries, which a model can only fit by having seen them.

    Args:
        count: how many; all rows where they are fewer.

    Raises:
        ValueError: if the core has a single class.
    """
    if core.classes < 2:
        raise ValueError("a model of one class has no wrong label")
    generator = np.random.default_rng(seed)
    copies = rows.pick(torch.from_numpy(generator.permutation(len(rows))[:count]))
    index = torch.arange(len(copies))
    wrong = (copies.labels + torch.from_numpy(generator.integers(1, core.classes, size=len(copies)))) % core.classes
    moved = copies.missed.clone()
    moved[index, copies.labels] -= core.target
    moved[index, wrong] += core.target
    return Expanded(copies.rows, wrong, moved, copies.J)


def _autodiff(core: WholeCore, world: World, chosen: Tensor) -> Quadratic:
    """The loss over the kept rows but the chosen ones, in minibatches, which the sums do not have."""
    stays = torch.ones(len(world.kept), dtype=torch.bool)
    stays[chosen] = False
    return Quadratic(core.tangent.double(), core.tangent, world.kept.rows[stays], world.kept.missed[stays], world.core_rows, core.ridge)


def _arrived(found: Descent) -> Descent:
    if not found.reached:
        raise FellShort(f"Not estimable: a refit's solver stopped after {found.passes} passes, so it could be no version's release.")
    return found
