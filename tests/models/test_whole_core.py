"""What a linearised core is before any user row, c and w_core, and that it is the same after all of them."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from linearised import GONE, NET, Linearised
from stand_in import QUICK, Array
from torch import Tensor

from models.data import Samples
from models.forget.newton import forget
from models.linear.descent import cg
from models.linear.tangent import prepare
from models.linear.whole import WholeCore, logits, quadratic, zero
from models.linear.whole_fit import CLOSE, WholeFit, fit_whole
from models.nets import Architecture, build
from models.train import train

RIDGE = 3.0


def fit(problem: Linearised, weights: dict[str, Tensor], *, target: float = 5.0, rank: int = 256) -> WholeFit:
    return fit_whole(
        NET, problem.core_samples, QUICK, layers=None, random_bytes=os.urandom, target=target, ridge=RIDGE, sigma=0.1, rank=rank,
        weights=weights,
    )  # fmt: skip


def said(problem: Linearised, inputs: Tensor) -> Array:
    """The network's own logits, by calling it."""
    found: Array = problem.core.tangent.net(inputs).numpy().astype(float)
    return found


def wanted(labels: Tensor, target: float) -> Array:
    found: Array = target * np.eye(10)[labels.numpy()]
    return found


def scale(out: Array, targets: Array) -> float:
    """The slope of a line through the centred logits, by least squares."""
    found = np.linalg.lstsq((out - out.mean(axis=0)).reshape(-1, 1), (targets - targets.mean(axis=0)).reshape(-1), rcond=None)[0]
    return max(0.0, float(found[0]))


class Dense:
    """Core and user weights from matrices alone, in float64 and numpy."""

    def __init__(self, problem: Linearised, target: float) -> None:
        core, user = problem.core_samples, problem.user
        self.J, self.J_core = problem.J.numpy(), problem.J_core.numpy()
        self.K = self.J_core.T @ self.J_core + RIDGE * np.eye(self.J.shape[1])
        self.c = scale(said(problem, core.inputs), wanted(core.labels, target))
        self.side = self.J_core.T @ (wanted(core.labels, target) - self.c * said(problem, core.inputs)).reshape(-1)
        self.w_core: Array = np.linalg.solve(self.K, self.side)
        self.missed = (wanted(user.labels, target) - self.c * said(problem, user.inputs)).reshape(-1) - self.J @ self.w_core

    def user(self, first: int) -> Array:
        kept = self.J[first * 10 :]
        found: Array = np.linalg.solve(self.K + kept.T @ kept, kept.T @ self.missed[first * 10 :])
        return found


def length(fitted: WholeFit, e: Array) -> float:
    """|e| in the norm of M."""
    U, values = fitted.curvature.U.numpy(), fitted.curvature.values.numpy()
    return float(np.sqrt(values @ (U.T @ e) ** 2 + RIDGE * (e @ e)))


@pytest.fixture(scope="module", params=[5.0, 15.0])
def both(request: pytest.FixtureRequest, linearised: Linearised) -> tuple[WholeFit, Dense]:
    """A core fitted to targets of this size, and the second opinion."""
    return fit(linearised, linearised.core.tangent.net.state_dict(), target=request.param), Dense(linearised, request.param)


def test_w_core_is_the_dense_minimiser_over_the_core_rows(both: tuple[WholeFit, Dense]) -> None:
    """min sum_core 1/2 |c net + J w - t|^2 + L/2 |w|^2. Its distance is at most `CLOSE` of the error at w = 0, sqrt(g^T M^-1 g)."""
    fitted, dense = both
    U, values = fitted.curvature.U.numpy(), fitted.curvature.values.numpy()
    first = float(np.sqrt(dense.side @ np.linalg.solve(U @ np.diag(values) @ U.T + RIDGE * np.eye(len(U)), dense.side)))

    distance = length(fitted, fitted.core.weight.numpy() - dense.w_core)

    assert 0 < distance <= CLOSE * first
    assert length(fitted, dense.w_core) > 100 * CLOSE * first


def test_c_brings_the_centred_logits_to_the_targets_by_least_squares(both: tuple[WholeFit, Dense]) -> None:
    fitted, dense = both

    assert fitted.core.logit_scale == pytest.approx(dense.c, rel=1e-5)
    assert dense.c > 0


@pytest.mark.parametrize("factor", [-1.0, 0.0])
def test_logits_that_say_the_opposite_or_nothing_are_given_no_weight(linearised: Linearised, factor: float) -> None:
    """c is cut at 0, and w_core makes up for all of t alone."""
    weights = linearised.core.tangent.net.state_dict()
    weights |= {name: factor * weights[name] for name in ("fc.weight", "fc.bias")}

    core = fit(linearised, weights, rank=8).core

    assert core.logit_scale == 0.0
    assert np.isfinite(core.weight.numpy()).all() and bool(core.weight.any())


def test_refits_follow_the_size_of_the_targets(both: tuple[WholeFit, Dense], linearised: Linearised) -> None:
    """t enters all of it linearly: with a = 15 everything is three times what it is with a = 5."""
    (fitted, dense), five = both, Dense(linearised, 5.0)
    core, times = fitted.core, fitted.core.target / 5
    loss = quadratic(core, linearised.rows[GONE:], linearised.user.labels[GONE:], linearised.core_rows)
    first = fitted.curvature.bound(loss.gradient(zero(core))) ** 0.5

    w = cg(loss, zero(core), fitted.curvature, target=CLOSE * first, most=200).w.numpy()

    assert length(fitted, w - dense.user(GONE)) <= 2 * CLOSE * first  # its own error and what w_core's has made of it
    assert length(fitted, w - times * five.user(GONE)) <= 2 * CLOSE * first < 0.1 * length(fitted, w)
    assert core.logit_scale == pytest.approx(times * five.c, rel=1e-5)
    assert length(fitted, core.weight.numpy() - times * five.w_core) <= 2 * CLOSE * length(fitted, core.weight.numpy())


NORMALISED: dict[str, tuple[tuple[int, ...], tuple[str, ...] | None]] = {
    "resnet20": ((3, 8, 8), None),
    "convnet7": ((3, 8, 8), ("stage3", "stage4", "fc")),
    "mobilenet_v2": ((3, 32, 32), ("features.18", "classifier")),
}


def noise(count: int, shape: tuple[int, ...], seed: int) -> Samples:
    images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Samples(images, torch.arange(count) % 3, tuple(f"{seed}-{i}" for i in range(count)))


def core_hash(core: WholeCore) -> str:
    """sha256 of every parameter and every buffer, and of w_core and c."""
    found = hashlib.sha256(core.weight.numpy().tobytes() + np.float64(core.logit_scale).tobytes())
    for name, tensor in core.tangent.net.state_dict().items():
        found.update(name.encode() + tensor.numpy().tobytes())
    return found.hexdigest()


@pytest.mark.parametrize("name", ["resnet20", *(pytest.param(name, marks=pytest.mark.slow) for name in ("convnet7", "mobilenet_v2"))])
def test_no_user_row_reaches_the_statistics_of_batch_normalisation(name: str) -> None:
    """The core is the same to the last bit through fitting and forgetting, and so are its outputs where w_u = 0."""
    shape, layers = NORMALISED[name]
    architecture, core_samples, user = Architecture(name=name, input_shape=shape, classes=3), noise(24, shape, 1), noise(20, shape, 2)
    training = replace(QUICK, epochs=2, batch=12)
    net = build(architecture, 0)
    train(net, core_samples, training)
    trained = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    fitted = fit_whole(
        architecture,
        core_samples,
        training,
        layers=layers,
        random_bytes=os.urandom,
        ridge=RIDGE,
        sigma=1.0,
        rank=12,
        weights=net.state_dict(),
    )
    core, none, tangent = fitted.core, zero(fitted.core), fitted.core.tangent
    before, of_core = core_hash(core), logits(core, none, user.inputs)

    rows, core_rows = prepare(tangent, user.inputs), prepare(tangent, core_samples.inputs)
    every, kept = (quadratic(core, rows[first:], user.labels[first:], core_rows) for first in (0, 5))
    target = 0.01 * fitted.curvature.bound(every.gradient(none)) ** 0.5
    w = cg(every, none, fitted.curvature, target=target, most=60)
    release = forget(kept, w.w, fitted.curvature, method="cg", sigma=core.sigma, mu_max=target, random_bytes=os.urandom)

    assert any("running_var" in key for key in trained) and w.reached and release.descent.reached
    assert all(torch.equal(tensor, trained[key]) for key, tensor in tangent.net.state_dict().items())
    assert core_hash(core) == before
    assert not any(module.training for one in (tangent, kept.tangent, kept.quick) for module in one.net.modules())
    assert all(torch.equal(tensor, trained[key].to(tensor.dtype)) for key, tensor in kept.tangent.net.state_dict().items())
    assert torch.equal(logits(core, none, user.inputs), of_core)
    served = logits(core, w.w, user.inputs)
    assert not torch.allclose(served, of_core, rtol=1e-3, atol=1e-3)
    assert torch.allclose(logits(core, w.w, user.inputs[:3]), served[:3], rtol=1e-4, atol=1e-4)  # no row sees another
