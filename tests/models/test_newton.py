"""Forgetting of a linearised network against the exact minimiser of the kept rows."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from linearised import GONE, Linearised, solved
from torch import Tensor

from models import gaussian
from models.forget.newton import forget, proved
from models.linear.curvature import LARGEST, RANK, Curvature, rank_of, standard_normal
from models.linear.descent import Descent, cg, sgd
from models.linear.quadratic import Quadratic
from models.linear.tangent import forward, outputs
from models.linear.whole import logits, zero


def away(w: Tensor, problem: Linearised) -> float:
    """How far from refitting, as a share of where it began."""
    before, refitted = problem.minimiser(), problem.minimiser(GONE)
    return float((w - refitted).norm() / (before - refitted).norm())


def core_hash(problem: Linearised) -> str:
    state = hashlib.sha256()
    for name, tensor in problem.core.tangent.net.state_dict().items():
        state.update(name.encode() + tensor.numpy().tobytes())
    return state.hexdigest()


def test_gradient_and_curvature_are_those_of_the_matrix(linearised: Linearised) -> None:
    loss = linearised.loss(GONE)
    w = 0.1 * torch.randn(linearised.J.shape[1], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    H, side = linearised.hessian(GONE), linearised.J[GONE * 10 :].T @ loss.missed.reshape(-1)

    gradient, curved, exactly = loss.gradient(w), loss.curved(w), linearised.loss(GONE, tangent=loss.tangent).curved(w)

    assert float((gradient - (H @ w - side)).norm() / gradient.norm()) <= 1e-11
    assert float((exactly - H @ w).norm() / (H @ w).norm()) <= 1e-11
    assert float((curved - H @ w).norm() / (H @ w).norm()) <= 1e-5
    assert (loss.passes.double, loss.passes.single) == (1, 1)


def test_a_removal_ends_where_refitting_ends_in_float64(linearised: Linearised) -> None:
    before = core_hash(linearised)
    exact = linearised.loss(GONE, tangent=linearised.loss().tangent)

    w = solved(linearised, exact, linearised.minimiser(), target=1e-7)

    assert away(linearised.minimiser(), linearised) == 1.0
    assert away(w, linearised) <= 1e-6
    assert core_hash(linearised) == before


def test_a_removal_ends_where_refitting_ends_with_float32_products(linearised: Linearised) -> None:
    w = solved(linearised, linearised.loss(GONE), linearised.minimiser(), target=1e-3)

    assert away(w, linearised) <= 1e-3


def test_it_does_not_matter_where_a_removal_starts(linearised: Linearised) -> None:
    start = torch.randn(linearised.J.shape[1], generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    w = solved(linearised, linearised.loss(GONE), start, target=1e-3)

    assert away(w, linearised) <= 1e-3


def test_the_last_step_is_as_long_as_makes_the_error_least(linearised: Linearised) -> None:
    exact = linearised.loss(GONE, tangent=linearised.loss().tangent)
    start, curvature = linearised.minimiser(), linearised.curvature
    whole = cg(exact, start, curvature, target=1e-9, most=8)  # gives up after its last step was taken whole

    shorter = cg(linearised.loss(GONE, tangent=exact.tangent), start, curvature, target=whole.history[-1] / 0.9 * (1 + 1e-9), most=8)

    assert whole.history[-1] < 0.99 * whole.error
    assert shorter.reached and len(shorter.history) == len(whole.history)
    assert shorter.error == pytest.approx(whole.history[-1], rel=1e-6)
    assert curvature.bound(exact.gradient((whole.w + shorter.w) / 2)) ** 0.5 > shorter.error  # and a longer one is worse


def test_a_long_way_in_float32_takes_hardly_more_passes_than_in_float64(linearised: Linearised) -> None:
    far = 1e3 * torch.randn(linearised.J.shape[1], generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    quick, exact = linearised.loss(GONE), linearised.loss(GONE, tangent=linearised.loss().tangent)
    target = 1e-7 * linearised.curvature.bound(linearised.loss(GONE).gradient(far)) ** 0.5

    found = [cg(loss, far, linearised.curvature, target=target, most=200) for loss in (quick, exact)]

    assert found[0].reached and found[1].reached
    assert quick.passes.total <= exact.passes.total + 1
    assert quick.passes.double == 3  # two on the way, and the end


def test_where_a_solver_begins_is_rough_and_where_it_ends_is_not(linearised: Linearised) -> None:
    loss, start = linearised.loss(GONE), linearised.minimiser()
    curvature, target = linearised.curvature, 1e-3

    class Liar(Quadratic):
        """Says of every point that it is the minimiser."""

        def rough(self, w: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(w)

    liar = Liar(loss.tangent, loss.quick, loss.rows, loss.aims, loss.core, loss.ridge, base=loss.base, scale=loss.scale)
    honest, fooled, short = (cg(one, start, curvature, target=target, most=most) for one, most in ((loss, 200), (liar, 200), (liar, 2)))

    apart = curvature.bound(loss.rough(start) - loss.gradient(start)) ** 0.5
    assert apart < 1e-3 * curvature.bound(loss.gradient(start)) ** 0.5
    for found in (honest, fooled):
        assert found.reached and curvature.bound(loss.gradient(found.w)) ** 0.5 == pytest.approx(found.error, rel=1e-6)
    assert not short.reached and short.error > target and short.passes == 2


def test_the_papers_sgd_comes_closer_but_not_there(linearised: Linearised) -> None:
    w = solved(linearised, linearised.loss(GONE), linearised.minimiser(), target=1e-3, method="sgd", most=40)

    assert 1e-2 < away(w, linearised) < 1


def test_sgd_goes_through_the_rows_as_often_as_it_may_and_looks_at_its_error_ten_times(linearised: Linearised) -> None:
    loss = linearised.loss(GONE)

    found = sgd(loss, linearised.minimiser(), linearised.curvature, target=1e-9, most=31)

    assert (loss.passes.single, loss.passes.double) == (20, 11)
    assert found.passes == 31 and len(found.history) == 11 and not found.reached


def test_mislabelled_rows_fit_as_they_do_after_refitting(linearised: Linearised) -> None:
    inputs, wrong = linearised.user.inputs[:GONE], linearised.user.labels[:GONE]
    w = solved(linearised, linearised.loss(GONE), linearised.minimiser(), target=1e-2)

    said = [logits(linearised.core, v, inputs) for v in (linearised.minimiser(), w, linearised.minimiser(GONE))]

    fits = [int((out.argmax(dim=1) == wrong).sum()) for out in said]
    pulls = [float(out[torch.arange(GONE), wrong].mean()) for out in said]
    assert abs(fits[1] - fits[2]) <= 1
    assert abs(pulls[1] - pulls[2]) < 0.01 < 0.1 < pulls[0] - pulls[2]


def test_the_order_of_requests_does_not_matter(linearised: Linearised) -> None:
    at_once = solved(linearised, linearised.loss(GONE), linearised.minimiser(), target=1e-3)
    first = solved(linearised, linearised.loss(12), linearised.minimiser(), target=1e-3)
    then = solved(linearised, linearised.loss(GONE), first, target=1e-3)

    e = then - at_once

    assert float(e @ linearised.hessian(GONE) @ e) ** 0.5 <= 2e-3 * 1.5  # each within its bound; H exceeds M a little in what M leaves out
    assert linearised.curvature.bound(linearised.loss(GONE).gradient(then)) ** 0.5 <= 1e-3


@pytest.mark.parametrize(("method", "ridge", "share", "most"), [("cg", 3.0, 1e-4, 200), ("sgd", 3000.0, 0.02, 60)])
def test_rows_forgotten_and_taken_back_leave_the_weights_where_they_were(
    linearised: Linearised, method: str, ridge: float, share: float, most: int
) -> None:
    """Within the sum of both errors, in the norm of M: METHODS' (r + r_fit)/m is no smaller. SGD arrives nowhere but at a large L.

    Measured: .0006 of at most .0010 for cg, .048 of at most .068 for sgd; the forgetting in between went 5.1 and .94 away.
    """
    shape, core_only = replace(linearised.curvature, ridge=ridge), zero(linearised.core)
    every, kept = (replace(linearised.loss(first), ridge=ridge) for first in (0, GONE))
    target = share * shape.bound(every.gradient(core_only)) ** 0.5

    def moved(loss: Quadratic, start: Tensor) -> Descent:
        return forget(loss, start, shape, method=method, sigma=1.0, mu_max=target, most=most, random_bytes=os.urandom).descent

    def apart(one: Descent, other: Descent) -> float:
        e = one.w - other.w
        return (float(shape.values @ shape.along(e).square()) + ridge * float(e @ e)) ** 0.5

    fitted = moved(every, core_only)
    without = moved(kept, fitted.w)
    again = moved(every, without.w)

    assert fitted.reached and without.reached and again.reached
    assert apart(fitted, without) > 10 * (fitted.error + again.error)
    assert 0 < apart(fitted, again) <= fitted.error + again.error


def test_forgetting_everything_gives_the_cores_outputs_bit_for_bit(linearised: Linearised) -> None:
    inputs = linearised.user.inputs[:40]
    of_core = logits(linearised.core, zero(linearised.core), inputs)
    nobody = linearised.loss(300)

    released = forget(nobody, zero(linearised.core), linearised.curvature, method="cg", sigma=0.1, mu_max=0.2, random_bytes=os.urandom)

    assert torch.equal(released.descent.w, zero(linearised.core)) and released.descent.reached
    assert torch.equal(logits(linearised.core, released.descent.w, inputs), of_core)
    exact, rows = linearised.core.tangent.double(), linearised.rows[:40]
    f0 = linearised.core.logit_scale * outputs(exact, rows) + forward(exact, rows, linearised.core.weight)
    assert torch.allclose(of_core, f0, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("requests", [6, pytest.param(20, marks=pytest.mark.slow)])
def test_the_stated_bound_lies_above_the_distance_to_refitting(linearised: Linearised, requests: int) -> None:
    """On random requests, with the distance computed from dense factorisations that share nothing with the solver."""
    generator = torch.Generator().manual_seed(11)
    start, U = linearised.minimiser(), linearised.curvature.U
    M = U @ torch.diag(linearised.curvature.values) @ U.T + linearised.core.ridge * torch.eye(len(U), dtype=torch.float64)
    seen = []
    for _ in range(requests):
        order = torch.randperm(300, generator=generator)
        stay = order[int(torch.randint(1, 60, (1,), generator=generator)) :]
        loss = linearised.loss()
        kept = Quadratic(loss.tangent, loss.quick, loss.rows[stay], loss.missed[stay], loss.core, loss.ridge)
        gone = linearised.J.view(300, 10, -1)[order[: 300 - len(stay)]].flatten(0, 1)
        side = linearised.J.view(300, 10, -1)[stay].flatten(0, 1).T @ kept.missed.reshape(-1)
        refitted = torch.linalg.solve(linearised.hessian() - gone.T @ gone, side)
        release = forget(kept, start, linearised.curvature, method="cg", sigma=0.1, mu_max=0.2, random_bytes=os.urandom)
        e = release.descent.w - refitted
        seen.append((float(e @ M @ e) ** 0.5, release.descent.error))

    assert all(distance <= error <= 0.1 * 0.2 for distance, error in seen)
    assert max(distance / error for distance, error in seen) > 0.2  # not an idle bound


def test_the_residual_reported_is_the_one_that_other_code_computes(linearised: Linearised) -> None:
    release = forget(
        linearised.loss(GONE), linearised.minimiser(), linearised.curvature, method="cg", sigma=0.1, mu_max=0.2, random_bytes=os.urandom
    )
    w = release.descent.w
    side = linearised.J[GONE * 10 :].T @ linearised.loss(GONE).missed.reshape(-1)

    again = float((linearised.hessian(GONE) @ w - side).norm())

    rounding = 1e-12 * float(linearised.J[GONE * 10 :].abs().T.sum() * 5)
    assert abs(again - release.descent.residual) <= 1e-3 * again + rounding


def test_a_solver_that_stops_short_releases_nothing(linearised: Linearised) -> None:
    release = forget(
        linearised.loss(GONE), linearised.minimiser(), linearised.curvature, method="sgd", sigma=0.001, mu_max=0.01, most=4,
        random_bytes=os.urandom,
    )  # fmt: skip

    assert release.weights is None and not release.descent.reached
    assert release.passes <= 6


def test_noise_is_fresh_and_has_the_shape_that_is_stated() -> None:
    p, r = 30, 6
    U = torch.linalg.qr(torch.randn(p, r, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    curvature = Curvature(U, torch.tensor([1.0, 2, 5, 20, 100, 400], dtype=torch.float64), 2.0)
    M = U @ torch.diag(curvature.values) @ U.T + 2.0 * torch.eye(p, dtype=torch.float64)

    draws = torch.stack([curvature.draw(os.urandom) for _ in range(20_000)])

    white = torch.linalg.cholesky(M).T @ draws.T  # of covariance I if the draws are of covariance M^-1
    covariance = white @ white.T / draws.shape[0]
    assert float((covariance - torch.eye(p, dtype=torch.float64)).abs().max()) < 0.06
    assert float(white.mean(dim=1).abs().max()) < 0.05
    assert not torch.equal(draws[0], draws[1])
    g = torch.randn(p, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert curvature.bound(g) == pytest.approx(float(g @ torch.linalg.solve(M, g)), rel=1e-10)
    assert curvature.flat().bound(g) == pytest.approx(float(g @ g) / 2.0, rel=1e-12)


def test_normal_numbers_come_from_the_bytes_given() -> None:
    assert torch.equal(standard_normal(5, lambda n: bytes(range(n))), standard_normal(5, lambda n: bytes(range(n))))
    assert float(standard_normal(200_000, os.urandom).square().mean()) == pytest.approx(1.0, abs=0.02)
    assert torch.isfinite(standard_normal(2, lambda n: b"\0" * (n // 2) + b"\xff" * (n // 2))).all()


def test_the_low_rank_curvature_never_exceeds_the_cores(linearised: Linearised) -> None:
    K = linearised.J_core.T @ linearised.J_core
    U, values = linearised.curvature.U, linearised.curvature.values

    slack = torch.linalg.eigvalsh(K - U @ torch.diag(values) @ U.T)

    assert float(slack.min()) >= -1e-9 * float(values.max())
    assert float((U.T @ U - torch.eye(U.shape[1], dtype=torch.float64)).abs().max()) <= 1e-12
    largest = torch.linalg.eigvalsh(K)[-len(values) :]
    assert float((values / largest).min()) > 0.5  # one pass over the rows finds a third of the smallest


def test_what_is_kept_of_the_curvature_is_bounded_in_memory() -> None:
    assert rank_of(16_698) == RANK
    assert all(rank_of(p) * p <= LARGEST for p in (10**5, 10**6, 10**7)) and rank_of(2 * LARGEST) == 1


def test_an_attack_that_knows_both_answers_does_no_better_than_stated(linearised: Linearised) -> None:
    """Likelihood ratio between noisy releases of the forgetting and of the refitting, by someone who knows both noiseless answers."""
    sigma, mu_max = 0.02, 0.5
    release = forget(
        linearised.loss(GONE),
        linearised.minimiser(),
        linearised.curvature,
        method="cg",
        sigma=sigma,
        mu_max=mu_max,
        random_bytes=os.urandom,
    )
    curvature, forgotten, refitted = linearised.curvature, release.descent.w, linearised.minimiser(GONE)
    e = forgotten - refitted
    weighed = curvature.U @ (curvature.values * curvature.along(e)) + curvature.ridge * e  # M e: the log likelihood ratio is linear in it
    drawn = np.random.default_rng(0).bytes
    noise = torch.stack([sigma * curvature.draw(drawn) for _ in range(4000)])
    scores = [(noise[:2000] + forgotten) @ weighed, (noise[2000:] + refitted) @ weighed]

    cuts = torch.cat(scores).quantile(torch.linspace(0, 1, 101, dtype=torch.float64))
    measured = max(float((scores[0] > cut).double().mean() - (scores[1] > cut).double().mean()) for cut in cuts)

    assert release.descent.reached
    assert measured <= gaussian.advantage(mu_max) + 0.03
    # It is the strongest attack there is; the difference of two shares of 2,000 has a standard deviation of .016.
    assert measured >= gaussian.advantage(float(e @ weighed) ** 0.5 / sigma) - 0.05
    assert float(proved(sigma=sigma, mu_max=mu_max, isotropic=False).value["advantage"]) == pytest.approx(
        gaussian.advantage(mu_max), abs=1e-5
    )
