"""Retraining without samples is, by hash, the training of a model that never had them."""

from __future__ import annotations

import pytest
import torch
from stand_in import DIGITS, QUICK, digits
from torch import Tensor

from models.forget import exact, retrain
from models.forget.retrain import Fitted, Recipe, fit
from models.linear.core import core_tensors
from models.linear.solve import digest as weights_digest
from models.linear.statistics import Rows
from models.linear.statistics import digest as statistics_digest
from models.progress import Stopped

CORE, USER = digits(0, 150, "core"), digits(400, 500, "user")
RECIPE = Recipe(architecture=DIGITS, training=QUICK, expected_rows=100, ridge=10.0)


def same(first: Fitted, second: Fitted) -> bool:
    one, other = core_tensors(first.core), core_tensors(second.core)
    core = one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    sums = statistics_digest(first.statistics) == statistics_digest(second.statistics)
    return core and sums and weights_digest(first.weights) == weights_digest(second.weights)


def network(fitted: Fitted) -> dict[str, Tensor]:
    return {name: value for name, value in core_tensors(fitted.core).items() if name.startswith("net.")}


def test_retraining_without_samples_is_training_on_the_rest() -> None:
    gone = {"core-3", "core-77", "user-0", "user-99", "nobody"}
    rest_core = CORE.select([i for i in range(150) if i not in (3, 77)])
    rest_user = USER.select(list(range(1, 99)))

    after = retrain.forget(RECIPE, CORE, USER, gone)

    assert same(after, fit(RECIPE, rest_core, rest_user))
    assert not same(after, fit(RECIPE, CORE, USER))


def test_forgetting_a_user_by_retraining_leaves_the_core_as_it_was_and_equals_exact() -> None:
    before = fit(RECIPE, CORE, USER)

    after = retrain.forget(RECIPE, CORE, USER, {"user-5"})

    assert all(torch.equal(value, network(before)[name]) for name, value in network(after).items())
    removed = exact.forget(before.statistics, Rows(before.rows.features[5:6], before.rows.targets[5:6]), before.core)
    assert weights_digest(removed.weights) == weights_digest(after.weights)


def test_a_core_sample_leaves_every_part_of_the_core() -> None:
    before, after = fit(RECIPE, CORE, USER), retrain.forget(RECIPE, CORE, USER, {"core-3"})

    for name in ("net.fc.weight", "net.input.mean", "tap.mean", "tap.scale", "core.weight", "logit_scale"):
        assert not torch.equal(core_tensors(before.core)[name], core_tensors(after.core)[name]), name


def test_the_ridge_is_chosen_again_where_none_is_given() -> None:
    recipe = Recipe(architecture=DIGITS, training=QUICK, expected_rows=100)

    assert same(retrain.forget(recipe, CORE, USER, {"core-3"}), fit(recipe, CORE.without({"core-3"}), USER))


def test_a_stop_is_heard_and_progress_told() -> None:
    phases: list[str] = []
    fit(RECIPE, CORE, USER, progress=lambda phase, _: phases.append(phase))

    assert list(dict.fromkeys(phases)) == ["train core", "encode", "fit linear part"]
    with pytest.raises(Stopped):
        retrain.forget(RECIPE, CORE, USER, {"core-3"}, stop=lambda: len(phases) > 0)
