"""Digits with mislabelled rows to forget, the honest removal, and four that only pretend."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from models.audit.membership import Attack, Shadows, Verdict, attack, verdict
from models.audit.shadows import Played, Targets, mislabelled, shadows
from models.data import Samples
from models.forget.refit import weights_of
from models.linear.core import Core, core_statistics, encode, fit_core
from models.linear.statistics import Rows, Statistics, add
from models.nets import Architecture
from models.train import Training
from tests.models.stand_in import digits

SMALL = Architecture(name="convnet", input_shape=(1, 8, 8), classes=10, hidden=(8, 8, 12, 12))


@dataclass(frozen=True)
class World:
    """A core, kept rows, mislabelled rows to forget, and rows that nobody trained on."""

    core: Core
    kept: Statistics
    rows: Rows
    targets: Targets
    audit: Rows
    audit_labels: Tensor

    @property
    def before(self) -> Statistics:
        return add(self.kept, self.targets.rows)

    def play(self, seed: int, groups: int = 64) -> Played:
        canaries = mislabelled(self.core, self.audit, self.audit_labels, seed=seed, count=30)
        return shadows(self.core, self.kept, self.rows, self.targets, canaries, seed=seed, groups=groups)

    def judged(self, weights: Tensor, played: Played) -> tuple[Attack, Verdict]:
        found = attack(self.targets.scores(self.core, weights), played.targets, seed=0, resamples=100)
        return found, verdict(found, attack(played.planted, played.canaries, seed=0, resamples=100))


def world(core_samples: Samples, core: Core, user: Samples, audit: Samples, *, forget: int, seed: int) -> World:
    """The first `forget` user rows, in a random order, are mislabelled and go."""
    g = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(user), generator=g)
    gone, stays = user.select(order[:forget]), user.select(order[forget:])
    wrong = (gone.labels + torch.randint(1, core.classes, (forget,), generator=g)) % core.classes
    rows = encode(core, stays.inputs, stays.labels)
    kept = add(core_statistics(core, core_samples.inputs), rows)
    held = encode(core, audit.inputs, audit.labels)
    return World(core, kept, rows, Targets(encode(core, gone.inputs, wrong), wrong), held, audit.labels)


@cache
def digit_core() -> Core:
    torch.set_num_threads(1)
    return fit_core(SMALL, digits(0, 400, "core"), Training(epochs=4, rate=0.1, seed=3), expected_rows=600, ridge=10.0)


def digit_world(seed: int, forget: int = 40) -> World:
    return world(digits(0, 400, "core"), digit_core(), digits(400, 1100, "user"), digits(1100, 1300, "audit"), forget=forget, seed=seed)


def retrained(w: World) -> Tensor:
    return weights_of(w.core, w.kept)


def untouched(w: World) -> Tensor:
    """The version before, called forgotten."""
    return weights_of(w.core, w.before)


def fine_tuned(w: World, steps: int = 300) -> Tensor:
    """Gradient steps on the kept rows' loss from the version before: near-zero gradients long before it forgets."""
    weights = untouched(w)
    s, t = w.core.feature_scale, w.core.target_scale
    curvature, right = s * s * w.kept.A.double(), s * t * w.kept.B.double()
    rate = 1.0 / (float(torch.linalg.matrix_norm(curvature, 2)) + w.core.ridge)
    for _ in range(steps):
        weights = weights - rate * (curvature @ weights + w.core.ridge * weights - right)
    return weights


def wrong_sign(w: World) -> Tensor:
    """The Newton step added where it must be subtracted: twice as far from retraining as doing nothing."""
    return 2 * untouched(w) - retrained(w)


def corrupted_head(w: World) -> Tensor:
    """The version before with its constant's weights moved until the forgotten samples' wrong labels no longer win: nothing is removed."""
    weights = untouched(w).clone()
    q = w.core.feature_scale * w.targets.rows.features.double()
    constant = int((q.std(dim=0) == 0).nonzero().flatten()[-1])
    weights[constant] += torch.randn(w.core.classes, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2.0
    return weights


FAKES = {"not forgotten": untouched, "fine-tuned": fine_tuned, "wrong sign": wrong_sign, "corrupted head": corrupted_head}


def fooling(w: World, shadows_: Shadows) -> Tensor:
    """Scores of a version tuned so that the one-sided attack alone finds nothing: every target far on the unseen side."""
    return shadows_.unseen.mean(dim=0) - 8 * shadows_.unseen.std(dim=0)
