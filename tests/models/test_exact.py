"""Forgetting with `exact` gives the bits of refitting, and that refit is the minimiser that the mathematics names."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from stand_in import Array, Fixed, brute_force, gradient

from models.forget import METHODS, exact, zero
from models.forget.refit import refit, refit_samples, weights_of
from models.guarantee import Proved
from models.linear.core import core_logits, core_tensors, encode, logits
from models.linear.solve import digest as weights_digest
from models.linear.statistics import Rows, Statistics, gram, merge, subtract
from models.linear.statistics import digest as statistics_digest


def mask(fixed: Fixed, gone: int | str) -> torch.Tensor:
    """True for rows to forget: the first so many, or a whole class."""
    if isinstance(gone, int):
        return torch.arange(len(fixed.user)) < gone
    return fixed.user.labels == int(gone.removeprefix("class "))


def core_rows(fixed: Fixed) -> Rows:
    return encode(fixed.core, fixed.core_samples.inputs, fixed.core_samples.labels)


@pytest.mark.parametrize("gone", [1, 2, 100, "class 3"])
def test_forgetting_gives_the_very_bits_that_refitting_gives(fixed: Fixed, gone: int | str) -> None:
    out = mask(fixed, gone)
    whole, kept = refit(fixed.core, fixed.begun, [fixed.rows]), refit(fixed.core, fixed.begun, [fixed.part(~out)])

    after = exact.forget(whole.statistics, fixed.part(out), fixed.core)

    assert weights_digest(whole.weights) != weights_digest(kept.weights)
    assert weights_digest(after.weights) == weights_digest(kept.weights)
    assert statistics_digest(after.statistics) == statistics_digest(kept.statistics)


@pytest.mark.parametrize("gone", [1, "class 3"])
def test_forgetting_equals_a_refit_from_the_raw_samples(fixed: Fixed, gone: int | str) -> None:
    out = mask(fixed, gone)
    whole = refit(fixed.core, fixed.begun, [fixed.rows])

    after = exact.forget(whole.statistics, fixed.part(out), fixed.core)

    from_raw = refit_samples(fixed.core, fixed.core_samples, fixed.user.select(~out))
    assert weights_digest(after.weights) == weights_digest(from_raw.weights)


def test_the_refit_is_the_minimiser_found_without_any_of_its_code(fixed: Fixed) -> None:
    out = mask(fixed, 30)

    found = refit(fixed.core, fixed.begun, [fixed.part(~out)]).weights.numpy()

    truth = brute_force(fixed.core, core_rows(fixed), fixed.part(~out))
    assert np.linalg.norm(found - truth) <= 1e-10 * np.linalg.norm(truth)


def test_the_residual_recomputed_by_other_code_is_that_of_rounding(fixed: Fixed) -> None:
    out = mask(fixed, 30)
    whole = refit(fixed.core, fixed.begun, [fixed.rows])

    after = exact.forget(whole.statistics, fixed.part(out), fixed.core)

    kept, core = fixed.part(~out), core_rows(fixed)
    terms = np.abs(fixed.core.feature_scale * kept.features.numpy().astype(float)).sum() * fixed.core.target * 1e-12
    assert np.linalg.norm(gradient(fixed.core, core, kept, whole.weights.numpy())) > 1.0
    assert np.linalg.norm(gradient(fixed.core, core, kept, after.weights.numpy())) <= terms


def newton(
    fixed: Fixed, weights: Array, out: torch.Tensor, *, ridge_in_curvature: float = 1.0, ridge_in_gradient: float = 1.0,
    curvature_over_classes: float = 1.0, sign: float = -1.0, curvature_of_gone: bool = False, diagonal: bool = False,
) -> Array:  # fmt: skip
    """One Newton step on the retained loss, with every mistake at hand."""
    core, kept, k = fixed.core, fixed.part(~out), core_rows(fixed)
    g = gradient(core, k, kept, weights, ridge=core.ridge * ridge_in_gradient)
    parts = [k.features, kept.features] + ([fixed.part(out).features] if curvature_of_gone else [])
    q = core.feature_scale * torch.cat(parts).numpy().astype(float)
    H = curvature_over_classes * (q.T @ q) + core.ridge * ridge_in_curvature * np.eye(core.d)
    step = g / np.diag(H)[:, None] if diagonal else np.linalg.solve(H, g)
    moved: Array = weights + sign * step
    return moved


MISTAKES: dict[str, tuple[float, Callable[[Fixed, Array, torch.Tensor], Array]]] = {
    "L halved in the curvature": (0.4, lambda f, w, o: newton(f, w, o, ridge_in_curvature=0.5)),
    "gradient averaged over classes, curvature not": (0.4, lambda f, w, o: newton(f, w, o, curvature_over_classes=f.core.classes)),
    "the diagonal of H for its inverse": (0.4, lambda f, w, o: newton(f, w, o, diagonal=True)),
    "wrong sign": (0.4, lambda f, w, o: newton(f, w, o, sign=1.0)),
    "L2 missing in the gradient": (0.4, lambda f, w, o: newton(f, w, o, ridge_in_gradient=0.0)),
    "curvature of all rows instead of the kept ones": (0.02, lambda f, w, o: newton(f, w, o, curvature_of_gone=True)),
}


def relative_distance(fixed: Fixed, found: Array, out: torch.Tensor) -> float:
    """|found - refitted| / |before - refitted|: 0 is forgotten, 1 is as far as before."""
    before = refit(fixed.core, fixed.begun, [fixed.rows]).weights.numpy()
    truth = brute_force(fixed.core, core_rows(fixed), fixed.part(~out))
    return float(np.linalg.norm(found - truth) / np.linalg.norm(before - truth))


def test_a_right_newton_step_and_exact_both_land_on_the_refit(fixed: Fixed) -> None:
    out = mask(fixed, 30)
    before = refit(fixed.core, fixed.begun, [fixed.rows])

    stepped = newton(fixed, before.weights.numpy(), out)
    removed = exact.forget(before.statistics, fixed.part(out), fixed.core).weights.numpy()

    assert relative_distance(fixed, stepped, out) <= 1e-6
    assert relative_distance(fixed, removed, out) <= 1e-6


@pytest.mark.parametrize("name", MISTAKES)
def test_every_known_mistake_in_the_step_stays_far_from_the_refit(fixed: Fixed, name: str) -> None:
    out = mask(fixed, 30)
    before = refit(fixed.core, fixed.begun, [fixed.rows]).weights.numpy()
    least, wrong = MISTAKES[name]

    found = wrong(fixed, before, out)

    assert relative_distance(fixed, found, out) >= least


def with_the_wrong_sign(fixed: Fixed, statistics: Statistics, gone: Rows) -> Statistics:
    sums = gram(gone)
    return merge(statistics, sums)


def with_ridge_per_row(fixed: Fixed, statistics: Statistics, gone: Rows) -> Array:
    """L = lambda n: the ridge shrinks with the rows that go."""
    kept = subtract(statistics, gone)
    shrunk = fixed.core.ridge * kept.rows / statistics.rows
    return weights_of(replace(fixed.core, ridge=shrunk), kept).numpy()


def without_the_curvature(fixed: Fixed, statistics: Statistics, gone: Rows) -> Array:
    """B without the gone rows, A with them."""
    kept = subtract(statistics, gone)
    return weights_of(fixed.core, replace(kept, A=statistics.A)).numpy()


def with_half_the_ridge(fixed: Fixed, statistics: Statistics, gone: Rows) -> Array:
    return weights_of(replace(fixed.core, ridge=fixed.core.ridge / 2), subtract(statistics, gone)).numpy()


def with_the_wrong_sign_of_rows(fixed: Fixed, statistics: Statistics, gone: Rows) -> Array:
    return weights_of(fixed.core, with_the_wrong_sign(fixed, statistics, gone)).numpy()


def in_float32(fixed: Fixed, statistics: Statistics, gone: Rows) -> Array:
    """Sums kept in float32, from which the gone rows' sums, in float32 too, are taken."""
    everything, q, r = fixed.rows, gone.features.float(), gone.targets.float()
    k = core_rows(fixed).features.float()
    x, y = everything.features.float(), everything.targets.float()
    A, B = (x.T @ x + k.T @ k) - q.T @ q, x.T @ y - q.T @ r
    return weights_of(fixed.core, Statistics(A.to(torch.int64), B.to(torch.int64), 0)).numpy()


@pytest.mark.parametrize(
    "wrong", [with_ridge_per_row, without_the_curvature, with_half_the_ridge, with_the_wrong_sign_of_rows, in_float32]
)  # fmt: skip
def test_every_known_mistake_in_the_sums_changes_the_hash(fixed: Fixed, wrong: Callable[[Fixed, Statistics, Rows], Array]) -> None:
    out = mask(fixed, 30)
    whole = refit(fixed.core, fixed.begun, [fixed.rows])
    kept = refit(fixed.core, fixed.begun, [fixed.part(~out)])

    found = wrong(fixed, whole.statistics, fixed.part(out))

    distance = relative_distance(fixed, found, out)

    assert weights_digest(torch.from_numpy(found)) != weights_digest(kept.weights)
    assert distance >= (0.02 if wrong is not in_float32 else 1e-12)
    assert distance >= (1.0 if wrong is with_the_wrong_sign_of_rows else 0.0)


def test_the_mislabelled_are_fitted_before_and_no_better_than_by_the_refit_after(fixed: Fixed) -> None:
    out = mask(fixed, 30)
    flipped = fixed.user.select(out)
    whole = refit(fixed.core, fixed.begun, [fixed.rows])
    truth = torch.from_numpy(brute_force(fixed.core, core_rows(fixed), fixed.part(~out)))

    after = exact.forget(whole.statistics, fixed.part(out), fixed.core)

    def fitted(weights: torch.Tensor) -> int:
        return int((logits(fixed.core, weights, flipped.inputs).argmax(1) == flipped.labels).sum())

    assert fitted(whole.weights) >= fitted(truth) + 5
    assert abs(fitted(after.weights) - fitted(truth)) <= 1


def test_the_order_of_requests_leaves_no_trace(fixed: Fixed) -> None:
    whole = refit(fixed.core, fixed.begun, [fixed.rows]).statistics
    first, second = torch.arange(0, 40), torch.arange(40, 90)

    one_way = exact.forget(exact.forget(whole, fixed.part(first), fixed.core).statistics, fixed.part(second), fixed.core)
    other_way = exact.forget(exact.forget(whole, fixed.part(second), fixed.core).statistics, fixed.part(first), fixed.core)
    at_once = exact.forget(whole, fixed.part(torch.arange(0, 90)), fixed.core)

    assert weights_digest(one_way.weights) == weights_digest(other_way.weights) == weights_digest(at_once.weights)
    assert statistics_digest(one_way.statistics) == statistics_digest(at_once.statistics)


def test_forgetting_and_fitting_again_gives_the_first_model(fixed: Fixed) -> None:
    whole = refit(fixed.core, fixed.begun, [fixed.rows])
    some = fixed.part(torch.arange(17, 60))

    without = exact.forget(whole.statistics, some, fixed.core)
    again = refit(fixed.core, without.statistics, [some])

    assert weights_digest(without.weights) != weights_digest(whole.weights)
    assert weights_digest(again.weights) == weights_digest(whole.weights)


def test_forgetting_everyone_is_zero_is_a_refit_on_nobody(fixed: Fixed) -> None:
    whole = refit(fixed.core, fixed.begun, [fixed.rows])
    nobody = refit(fixed.core, fixed.begun, [])

    by_rows = exact.forget(whole.statistics, fixed.rows, fixed.core)
    at_once = zero.forget(fixed.begun, fixed.core)

    assert weights_digest(by_rows.weights) == weights_digest(at_once.weights) == weights_digest(nobody.weights)
    assert statistics_digest(by_rows.statistics) == statistics_digest(at_once.statistics) == statistics_digest(fixed.begun)
    assert not bool(torch.signbit(by_rows.weights).any())
    assert torch.equal(logits(fixed.core, at_once.weights, fixed.test.inputs), core_logits(fixed.core, fixed.test.inputs))


def test_zero_refuses_sums_that_still_hold_someone(fixed: Fixed) -> None:
    whole = refit(fixed.core, fixed.begun, [fixed.rows])

    with pytest.raises(ValueError, match="hold no user row"):
        zero.forget(whole.statistics, fixed.core)


def test_fitting_and_forgetting_leave_every_tensor_of_the_core_as_it_was(fixed: Fixed) -> None:
    before = {name: value.clone() for name, value in core_tensors(fixed.core).items()}

    whole = refit_samples(fixed.core, fixed.core_samples, fixed.user)
    exact.forget(whole.statistics, fixed.part(torch.arange(5)), fixed.core)

    after = core_tensors(fixed.core)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def sums_of_shard(features: list[list[int]], targets: list[list[int]]) -> tuple[list[list[int]], list[list[int]], int]:
    """What one worker process does with its block of rows."""
    torch.set_num_threads(1)
    sums = gram(Rows(torch.tensor(features, dtype=torch.int16), torch.tensor(targets, dtype=torch.int16)))
    return sums.A.tolist(), sums.B.tolist(), sums.rows


def test_shards_summed_by_two_processes_in_random_order_give_the_same_hash(fixed: Fixed) -> None:
    shuffled = np.random.default_rng(1).permutation(270) + 30  # the kept rows
    shards = [fixed.part(torch.from_numpy(block)) for block in np.array_split(shuffled, 7)]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(sums_of_shard, shard.features.tolist(), shard.targets.tolist()) for shard in shards]
        done = [future.result() for future in futures]

    total = fixed.begun
    for i in np.random.default_rng(2).permutation(len(done)):
        A, B, rows = done[i]
        total = merge(total, Statistics(torch.tensor(A), torch.tensor(B), rows))

    whole = refit(fixed.core, fixed.begun, [fixed.rows])
    after = exact.forget(whole.statistics, fixed.part(torch.arange(30)), fixed.core)
    assert statistics_digest(total) == statistics_digest(after.statistics)
    assert weights_digest(weights_of(fixed.core, total)) == weights_digest(after.weights)


def test_the_proof_carries_the_digests_and_nothing_measured(fixed: Fixed) -> None:
    whole = refit(fixed.core, fixed.begun, [fixed.rows])
    after = exact.forget(whole.statistics, fixed.part(torch.arange(3)), fixed.core)

    proved = exact.proved(after.statistics, after.weights)

    assert isinstance(proved, Proved)
    assert (proved.name, proved.theorem) == ("equal_to_refit", exact.THEOREM)
    digests = {"statistics": statistics_digest(after.statistics), "weightValues": weights_digest(after.weights)}
    assert proved.value == digests | {"mu": "0"}


def test_the_registry_names_what_can_be_asked_for() -> None:
    assert set(METHODS) == {"exact", "retrain", "cg", "sgd", "zero"}
