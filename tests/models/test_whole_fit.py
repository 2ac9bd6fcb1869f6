"""L and sigma of a linearised core are chosen on core rows that its network has not seen, as a dense solver would choose them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from linearised import NET
from stand_in import QUICK, digits
from torch import Tensor

from models.data import Samples
from models.linear import whole_fit
from models.linear.curvature import Curvature, RandomBytes, measure
from models.linear.frozen import one_hot
from models.linear.tangent import jacobian, linearise, outputs, prepare
from models.linear.whole import WholeCore
from models.linear.whole_fit import COST, DRAWS, SCALE_ROWS, SHARES, SIGMAS, fit_whole, ridges
from models.nets import build
from models.train import train

ROWS, RANK = 400, 128
VOTES = 3 / (100 * DRAWS)
"""Solutions are compared to a fiftieth of the first error, in float32: one of 100 judged answers may turn, and so many under noise."""


class Dense:
    """The split of the core rows, and everything about it by matrices in float64."""

    def __init__(self, rows: Samples, seed: int) -> None:
        self.seed, order = seed, torch.randperm(ROWS, generator=torch.Generator().manual_seed(seed))
        self.learned, joined, self.held = (rows.select(part) for part in torch.split(order, [200, 100, 100]))
        net = build(NET, seed)
        train(net, self.learned, replace(QUICK, seed=seed))
        self.tangent = linearise(net, None)
        out, others, self.said = (outputs(self.tangent.double(), self.prepared(part)) for part in (self.learned, joined, self.held))
        targets = one_hot(self.learned.labels, classes=10, target=5.0)
        centred, wanted = out - out.mean(dim=0), targets - targets.mean(dim=0)
        scale = float((centred * wanted).sum() / (centred * centred).sum())
        self.said = scale * self.said
        self.side = torch.cat([targets - scale * out, one_hot(joined.labels, classes=10, target=5.0) - scale * others]).reshape(-1)
        self.J, self.judge = torch.cat([self.matrix(self.learned), self.matrix(joined)]), self.matrix(self.held)

    def prepared(self, rows: Samples) -> Tensor:
        return prepare(self.tangent, rows.inputs)

    def matrix(self, rows: Samples) -> Tensor:
        return jacobian(self.tangent.double(), self.prepared(rows))

    def logits(self, ridge: float) -> Tensor:
        """Of the rows that judge, with the exact minimiser at this L."""
        kernel = self.J @ self.J.T
        w = self.J.T @ torch.linalg.solve(kernel + ridge * torch.eye(len(kernel), dtype=torch.float64), self.side)
        return self.said + (self.judge @ w).view(-1, 10)

    def wrong(self, logits: Tensor) -> int:
        return int((logits.argmax(dim=1) != self.held.labels).sum())

    def noise(self, ridge: float, random_bytes: RandomBytes) -> list[Tensor]:
        """What draws of sigma = 1 do to the logits of the rows that judge, shaped by the rows that were learnt."""
        shape = measure(self.tangent.double(), self.prepared(self.learned), ridge=ridge, rank=RANK, seed=self.seed)
        return self.moved(shape, random_bytes)

    def moved(self, shape: Curvature, random_bytes: RandomBytes) -> list[Tensor]:
        return [(self.judge @ shape.draw(random_bytes)).view(-1, 10) for _ in range(DRAWS)]


def mislabelled() -> Samples:
    """400 digits, a fifth of them with another label: what a ridge is for."""
    rows = digits(0, ROWS, "core")
    labels = rows.labels.clone()
    labels[::5] = (labels[::5] + 1 + torch.arange(80) % 9) % 10
    return replace(rows, labels=labels)


@pytest.fixture(scope="module", params=(0, 1, 2))
def both(request: pytest.FixtureRequest) -> tuple[WholeCore, Dense]:
    """A core that the code chose for, and the second opinion."""
    torch.set_num_threads(1)
    rows, seed = mislabelled(), request.param
    given = np.random.default_rng(seed).bytes
    return fit_whole(NET, rows, replace(QUICK, seed=seed), layers=None, random_bytes=given, rank=RANK).core, Dense(rows, seed)


def test_the_ridge_is_the_largest_that_dense_solutions_cannot_tell_from_the_best(both: tuple[WholeCore, Dense]) -> None:
    core, dense = both
    some = torch.randperm(ROWS, generator=torch.Generator().manual_seed(dense.seed))[:SCALE_ROWS]
    length = float(jacobian(core.tangent.double(), prepare(core.tangent, mislabelled().inputs[some])).square().sum(dim=1).mean())

    tried = [float(f"{share * length:.0e}") for share in SHARES]
    errors = {ridge: dense.wrong(dense.logits(ridge)) for ridge in tried}
    least = min(errors.values())
    most = least + (least * (100 - least) / 100) ** 0.5

    assert errors[core.ridge] <= most + 1
    assert all(errors[ridge] >= most - 1 for ridge in tried[: tried.index(core.ridge)])
    assert least <= dense.wrong(dense.said) - 10  # or there was nothing to choose
    assert min(errors) < core.ridge


def test_gradients_ten_times_as_long_are_given_values_a_hundred_times_as_large() -> None:
    rows, net = digits(0, ROWS, "core"), build(NET, 0)
    train(net, rows, QUICK)

    before = ridges(net, rows, ("stage1", "stage2"), seed=0)
    net.fc.weight.mul_(10)
    after = ridges(net, rows, ("stage1", "stage2"), seed=0)

    assert before == tuple(sorted(before, reverse=True)) and len(set(before)) == len(SHARES)
    assert after == pytest.approx([100 * ridge for ridge in before], rel=1e-9)


def test_parameters_that_move_nothing_have_a_ridge_too() -> None:
    net = build(NET, 0).eval().requires_grad_(False)
    net.fc.weight.zero_()

    assert ridges(net, digits(0, ROWS, "core"), ("stage1",), seed=0) == SHARES


def costs(core: WholeCore, dense: Dense) -> list[float]:
    """What noise of each of `SIGMAS` costs in accuracy at the core's L, with the same random bytes."""
    said, noise = dense.logits(core.ridge), dense.noise(core.ridge, np.random.default_rng(dense.seed).bytes)
    return [float(np.mean([dense.wrong(said + sigma * drawn) for drawn in noise])) / 100 - dense.wrong(said) / 100 for sigma in SIGMAS]


def test_sigma_is_the_largest_whose_noise_costs_no_more_than_it_may(both: tuple[WholeCore, Dense]) -> None:
    found, place = costs(*both), SIGMAS.index(both[0].sigma)

    assert found[place] <= COST + VOTES or place == len(SIGMAS) - 1
    assert all(cost > COST - VOTES for cost in found[:place])
    assert found[0] > COST + VOTES, "there was nothing to choose"


def test_sigma_is_chosen_for_the_noise_that_releases_will_carry(both: tuple[WholeCore, Dense]) -> None:
    shaped, dense = both
    given, training = np.random.default_rng(dense.seed).bytes, replace(QUICK, seed=dense.seed)
    said, ridge = dense.logits(shaped.ridge), shaped.ridge

    flat = fit_whole(NET, mislabelled(), training, layers=None, random_bytes=given, ridge=ridge, rank=RANK, isotropic=True).core
    M = Curvature(torch.zeros(flat.tangent.p, 0, dtype=torch.float64), torch.zeros(0, dtype=torch.float64), ridge)
    noise = dense.moved(M, np.random.default_rng(dense.seed).bytes)
    found = [float(np.mean([dense.wrong(said + sigma * drawn) for drawn in noise])) / 100 - dense.wrong(said) / 100 for sigma in SIGMAS]

    assert found[SIGMAS.index(flat.sigma)] <= COST + VOTES
    assert found[SIGMAS.index(shaped.sigma)] > COST + VOTES, "both kinds of noise could be as large"
    assert all(cost > COST - VOTES for cost in found[: SIGMAS.index(flat.sigma)])


def test_a_ridge_that_is_given_is_the_one_that_sigma_is_chosen_for(both: tuple[WholeCore, Dense]) -> None:
    core, dense = both
    given, training = np.random.default_rng(dense.seed).bytes, replace(QUICK, seed=dense.seed)

    again = fit_whole(NET, mislabelled(), training, layers=None, random_bytes=given, ridge=core.ridge / 30, rank=RANK).core
    largest = next(i for i, cost in enumerate(costs(again, dense)) if cost <= COST)

    assert again.ridge == core.ridge / 30
    assert abs(SIGMAS.index(again.sigma) - largest) <= 1


def test_the_smallest_ridges_are_not_tried_where_larger_ones_made_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    tried, told = (1e9, 1e8, 1e7, 1e6, 1e5), list[float]()
    monkeypatch.setattr(whole_fit, "ridges", lambda *_, **__: tried)

    def progress(phase: str, done: float) -> None:
        if phase == "choose ridge" and done > 0.5:
            told.append(done)

    fit = fit_whole(
        NET, digits(0, ROWS, "core"), QUICK, layers=None, random_bytes=np.random.default_rng(0).bytes, rank=8, progress=progress
    )

    assert fit.core.ridge == tried[0]
    assert told == pytest.approx([0.6, 0.7, 0.8, 1.0])


@pytest.mark.parametrize(
    ("errors", "enough"),
    [([9], False), ([9, 9], False), ([9, 9, 9], True), ([9, 8, 8], False), ([9, 8, 9, 8], True), ([9, 8, 9, 7], False)],
)
def test_smaller_ridges_are_tried_until_two_in_a_row_bring_nothing(errors: list[int], enough: bool) -> None:
    assert whole_fit._enough(errors) is enough
