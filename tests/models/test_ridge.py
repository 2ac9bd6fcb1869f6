"""L is chosen on core rows that the network has not learnt by heart."""

from __future__ import annotations

import pytest
import torch
from stand_in import DIGITS, QUICK, digits

from models.data import Samples
from models.forget.refit import refit_samples
from models.linear.core import fit_core, logits
from models.linear.ridge import GRID, UNCHOSEN, choose_ridge
from models.nets import Architecture
from models.progress import Stopped
from models.train import Training

LINEAR = Architecture(name="mlp", input_shape=(40,), classes=2, hidden=(400,))


def noisy(n: int, flipped: float, seed: int = 0) -> Samples:
    """Two classes along one of 40 axes; a fraction of the labels is wrong."""
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, 40, generator=draw)
    labels = (inputs[:, 0] > 0) ^ (torch.rand(n, generator=draw) < flipped)
    return Samples(inputs, labels.long(), tuple(str(i) for i in range(n)))


def test_the_choice_is_near_the_best_for_new_rows_though_the_net_knows_its_own_by_heart() -> None:
    lost, spread = [], []
    for seed in range(3):
        core, user, fresh = noisy(300, 0.2, 10 * seed), noisy(300, 0.2, 10 * seed + 1), noisy(2000, 0.0, 10 * seed + 2)
        training = Training(epochs=30, batch=16, seed=seed)
        trained = fit_core(LINEAR, core, training, expected_rows=300, ridge=1.0).net
        assert trained is not None
        errors = {}
        for ridge in GRID:
            fitted = fit_core(LINEAR, core, training, expected_rows=300, ridge=ridge, weights=trained.state_dict())
            weights = refit_samples(fitted, core, user).weights
            errors[ridge] = float((logits(fitted, weights, fresh.inputs).argmax(1) != fresh.labels).float().mean())
        chosen = choose_ridge(LINEAR, core, training, target=5.0, expected_rows=300)
        lost.append(errors[chosen] - min(errors.values()))
        spread.append(max(errors.values()) - min(errors.values()))

    assert min(spread) >= 0.05
    assert sum(lost) <= sum(spread) / 3


def test_the_choice_is_one_of_the_grid_and_the_same_every_time() -> None:
    samples = digits(0, 200, "core")
    told: list[tuple[str, float]] = []

    first = choose_ridge(DIGITS, samples, QUICK, target=5.0, expected_rows=500, progress=lambda phase, done: told.append((phase, done)))
    again = choose_ridge(DIGITS, samples, QUICK, target=5.0, expected_rows=500)

    assert first == again
    assert first in GRID
    assert {phase for phase, _ in told} == {"choose ridge"}
    assert [done for _, done in told] == sorted(done for _, done in told)
    assert told[-1][1] == pytest.approx(1.0)


def test_more_rows_than_were_tried_take_the_smallest_of_equally_good_values() -> None:
    samples = digits(0, 200, "core")

    few = fit_core(DIGITS, samples, QUICK, expected_rows=0)
    many = fit_core(DIGITS, samples, QUICK, expected_rows=1_000_000)

    assert few.ridge in GRID and many.ridge in GRID
    assert many.ridge < few.ridge


def test_given_weights_are_judged_on_all_core_rows() -> None:
    samples = digits(0, 200, "core")
    net = fit_core(DIGITS, digits(200, 500, "other"), QUICK, expected_rows=10, ridge=1.0).net
    assert net is not None

    core = fit_core(DIGITS, samples, QUICK, expected_rows=10, weights=net.state_dict())

    assert core.ridge in GRID


def test_too_few_rows_take_the_default_and_a_stop_is_heard() -> None:
    assert choose_ridge(DIGITS, digits(0, 7, "core"), QUICK, target=5.0, expected_rows=500) == UNCHOSEN
    with pytest.raises(Stopped):
        choose_ridge(DIGITS, digits(0, 200, "core"), QUICK, target=5.0, expected_rows=500, stop=lambda: True)
