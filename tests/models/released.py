"""The small linearised network with mislabelled digits to forget: its release by the service's solver, and versions that only pretend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from linearised import GONE, Linearised
from torch import Tensor

from models.audit.membership import Attack, Verdict, attack, verdict
from models.audit.noisy_shadows import Played, Releasing, World, mislabelled, scores, shadows
from models.forget.newton import forget
from models.linear.quadratic import Quadratic
from models.linear.summed import Expanded, core_sum, expand
from models.linear.whole import quadratic

MU = 0.2


@dataclass(frozen=True)
class Removed:
    """What an attack on a removal needs."""

    how: Releasing
    world: World
    targets: Expanded
    loss: Quadratic
    """Over the rows that stay, by automatic differentiation, as the service makes it."""
    before: Tensor
    retrained: Tensor
    """Minimisers with the targets and without, by one dense factorisation each, `[p]`."""

    def play(self, seed: int, *, seen: int = 32, unseen: int = 32) -> Played:
        planted = mislabelled(self.how.core, self.world.kept, seed=seed, count=30)
        return shadows(self.how, self.world, self.targets, planted, seed=seed, seen=seen, unseen=unseen)

    def judged(self, weights: Tensor, played: Played) -> tuple[Attack, Attack, Verdict]:
        """The attack by shadows that forgot, by those that did not, and the verdict."""
        assert played.forgotten is not None
        score = scores(self.how.core, self.targets, weights)
        planted = attack(played.planted, played.canaries, seed=0, resamples=20)
        own, held = (attack(score, played_by, seed=0, resamples=20) for played_by in (played.forgotten, played.held))
        return own, held, verdict(own, planted, held=held)


def removed(problem: Linearised, seed: int, *, gone: int = GONE) -> Removed:
    """Some user digits in a random order are mislabelled, trained on, and go."""
    core, generator = problem.core, torch.Generator().manual_seed(seed)
    exact, order = core.tangent.double(), torch.randperm(len(problem.rows), generator=generator)
    labels = problem.true_labels[order]
    labels[:gone] = (labels[:gone] + torch.randint(1, 10, (gone,), generator=generator)) % 10
    rows = expand(core, exact, problem.rows[order], labels)
    world = World(rows.pick(torch.arange(gone, len(rows))), problem.core_rows, core_sum(core, exact, problem.core_rows))
    targets, sums = rows.pick(torch.arange(gone)), world.sums()
    both = sums.plus(targets)
    retrained, before = (torch.linalg.solve(each.H, each.side) for each in (sums, both))
    how = Releasing(core, problem.curvature, isotropic=False, fitted_to=MU, method="cg", mu=MU)
    loss = quadratic(core, problem.rows[order][gone:], labels[gone:], problem.core_rows)
    return Removed(how, world, targets, loss, before, retrained)


def noise(seed: int) -> Callable[[int], bytes]:
    return np.random.default_rng(1000 + seed).bytes


def released(w: Removed, seed: int) -> Tensor:
    """What the service releases."""
    core = w.how.core
    found = forget(w.loss, w.before, w.how.curvature, method="cg", sigma=core.sigma, mu_max=MU, random_bytes=noise(seed)).weights
    assert found is not None
    return found.double()


def untouched(w: Removed, seed: int) -> Tensor:
    """The version before with a release's noise, called forgotten."""
    return w.how.noised(w.before, noise(seed))


def fine_tuned(w: Removed, seed: int, steps: int = 300) -> Tensor:
    """Gradient steps on the kept rows' loss from the version before."""
    sums, weights = w.world.sums(), w.before
    rate = 1 / float(torch.linalg.matrix_norm(sums.H, 2))
    for _ in range(steps):
        weights = weights - rate * (sums.H @ weights - sums.side)
    return w.how.noised(weights, noise(seed))


def wrong_sign(w: Removed, seed: int) -> Tensor:
    """The Newton step added where it must be subtracted."""
    return w.how.noised(2 * w.before - w.retrained, noise(seed))


def laxer(w: Removed, **changed: float) -> Removed:
    """The same with another noise or another patience."""
    sigma = changed.pop("sigma", w.how.core.sigma)
    return replace(w, how=replace(w.how, core=replace(w.how.core, sigma=sigma), **changed))  # type: ignore[arg-type]


FAKES = {"not forgotten": untouched, "fine-tuned": fine_tuned, "wrong sign": wrong_sign}
