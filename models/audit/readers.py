"""Three ways to read a value out of features, each trained from nothing and made to state honest probabilities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import log

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.progress import Stop, check

SMOOTHING = 1e-3
"""Share of the prior mixed into every answer, so that no row costs more than ln(K / 1e-3) nats: bounded losses have honest intervals."""

RIDGES = (1.0, 0.1, 0.01, 0.001)  # L2 on the linear reader, strongest first: each fit starts from the one before
# Whitened features show a faint direction; with few rows they show every direction of noise as well, and standardised ones do better.
HIDDEN = (128, 128)
EPOCHS, PATIENCE, BATCH = 60, 8, 128
TREES = 150
LEAVES = 15
FLOOR = 1e-6  # eigenvalues below this fraction of the largest are rounding, not features
SHARPEST = 20.0  # an answer is never made sharper than this many times


@dataclass(frozen=True)
class Lesson:
    """Rows to learn from: weights fit on one part, sharpness and stopping settled on the other."""

    fit: Tensor
    """`[n, d]` float32."""
    fit_values: Tensor
    fit_weights: Tensor
    """`[n]` float32, mean 1."""
    check: Tensor
    """`[m, d]` float32: the calibration rows."""
    check_values: Tensor
    check_weights: Tensor
    values: int
    prior: Tensor
    """`[K]` float64: ln of each value's share in the population that is judged; -inf nowhere."""


Answer = Callable[[Tensor], Tensor]
"""From features `[n, d]` float32 to scores `[n, K]`, up to a constant a row."""

Reader = Callable[[Lesson, int, Stop], list[Answer]]
"""Trains a family's candidates by a seed; the best on the calibration rows is kept."""


def read(reader: Reader, lesson: Lesson, features: Tensor, *, seed: int, stop: Stop) -> Tensor:
    """Train a family and return its answers on new rows: ln p(v | h), `[n, K]` float64.

    Of the candidates the one with the least calibrated cross-entropy on the calibration rows answers. Its scores are multiplied by the
    factor that is best there, 0 included: an overfit reader then falls back to the prior instead of losing more than knowing nothing.
    """
    best: tuple[float, float, Answer] | None = None
    for answer in reader(lesson, seed, stop):
        loss, factor = _sharpness(answer(lesson.check), lesson)
        if best is None or loss < best[0]:
            best = loss, factor, answer
    assert best is not None
    return _smoothed(best[1] * _centred(best[2](features), lesson.prior), lesson.prior)


def _centred(scores: Tensor, prior: Tensor) -> Tensor:
    """Take the prior out of the scores: times 0 they then say the prior and nothing else."""
    return torch.log_softmax(scores.double(), dim=1) - prior.double()


def _smoothed(evidence: Tensor, prior: Tensor) -> Tensor:
    answers = torch.log_softmax(evidence + prior.double(), dim=1)
    return torch.logaddexp(answers + log(1 - SMOOTHING), prior.double() + log(SMOOTHING))


def _sharpness(scores: Tensor, lesson: Lesson) -> tuple[float, float]:
    """Return the least weighted cross-entropy on the calibration rows and the factor that gives it."""
    evidence, weights = _centred(scores, lesson.prior), lesson.check_weights.double()
    weights = weights / weights.sum()

    def loss(factor: float) -> float:
        answers = _smoothed(factor * evidence, lesson.prior)
        return float(-(weights * answers.gather(1, lesson.check_values[:, None]).squeeze(1)).sum())

    from scipy.optimize import minimize_scalar  # type: ignore[import-untyped, unused-ignore]

    found = minimize_scalar(loss, bounds=(0.0, SHARPEST), method="bounded", options={"xatol": 1e-3})
    nothing = loss(0.0)
    return (float(found.fun), float(found.x)) if found.fun < nothing else (nothing, 0.0)


def whitening(features: Tensor) -> Answer:
    """Return the map to uncorrelated features of equal size: a value hidden in a faint direction then stands out like any other."""
    wide = features.double()
    mean = wide.mean(dim=0)
    centred = wide - mean
    sizes, directions = torch.linalg.eigh(centred.T @ centred / len(wide))
    kept = sizes > FLOOR * sizes[-1].clamp(min=1e-300)
    if not bool(kept.any()):
        return lambda rows: rows.new_zeros(len(rows), 1)
    turn = (directions[:, kept] / sizes[kept].sqrt()).float()
    return lambda rows: ((rows.double() - mean).float()) @ turn


def standardising(features: Tensor) -> Answer:
    """Return the map that gives each feature mean 0 and variance 1; a constant feature becomes 0."""
    mean, scale = features.mean(dim=0), features.std(dim=0, unbiased=False)
    scale = torch.where(scale > 1e-6 * scale.max().clamp(min=1e-30), scale, torch.inf)
    return lambda rows: (rows - mean) / scale


def linear(lesson: Lesson, seed: int, stop: Stop) -> list[Answer]:
    """Fit multinomial logistic regressions on standardised and on whitened features, one for each strength of L2."""
    return [answer for form in (standardising, whitening) for answer in _regressions(lesson, form(lesson.fit), stop)]


def _regressions(lesson: Lesson, prepare: Answer, stop: Stop) -> list[Answer]:
    rows = prepare(lesson.fit)
    weight = torch.zeros(rows.shape[1], lesson.values, requires_grad=True)
    bias = torch.zeros(lesson.values, requires_grad=True)
    total = lesson.fit_weights.sum()
    found: list[Answer] = []
    for ridge in RIDGES:
        check(stop)
        optimiser = torch.optim.LBFGS([weight, bias], max_iter=60, history_size=10, line_search_fn="strong_wolfe")

        def objective(ridge: float = ridge, optimiser: torch.optim.LBFGS = optimiser) -> Tensor:
            optimiser.zero_grad()
            losses = functional.cross_entropy(rows @ weight + bias, lesson.fit_values, reduction="none")
            loss = (lesson.fit_weights * losses).sum() / total + ridge / 2 * weight.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimiser.step(objective)  # type: ignore[no-untyped-call, arg-type, unused-ignore]
        kept, offset = weight.detach().clone(), bias.detach().clone()
        found.append(lambda new, kept=kept, offset=offset: prepare(new) @ kept + offset)  # type: ignore[misc]
    return found


def mlp(lesson: Lesson, seed: int, stop: Stop) -> list[Answer]:
    """Train two networks of two hidden layers, on standardised and on whitened features, stopped early on the calibration rows."""
    return [_network(lesson, prepare(lesson.fit), seed, stop) for prepare in (standardising, whitening)]


def _network(lesson: Lesson, prepare: Answer, seed: int, stop: Stop) -> Answer:
    generator = torch.Generator().manual_seed(seed)
    rows, held = prepare(lesson.fit), prepare(lesson.check)
    net = _layers(rows.shape[1], lesson.values, generator)
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    best, state, waited = float("inf"), {k: v.clone() for k, v in net.state_dict().items()}, 0
    for _ in range(EPOCHS):
        check(stop)
        for some in torch.split(torch.randperm(len(rows), generator=generator), BATCH):
            losses = functional.cross_entropy(net(rows[some]), lesson.fit_values[some], reduction="none")
            loss = (lesson.fit_weights[some] * losses).mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        with torch.no_grad():
            now, _ = _sharpness(net(held), lesson)
        waited = 0 if now < best else waited + 1
        if now < best:
            best, state = now, {k: v.clone() for k, v in net.state_dict().items()}
        if waited >= PATIENCE:
            break
    net.load_state_dict(state)
    net.requires_grad_(False)
    return lambda new: net(prepare(new))


def _layers(width: int, values: int, generator: torch.Generator) -> nn.Sequential:
    sizes = (width, *HIDDEN, values)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        with torch.random.fork_rng(devices=[]):  # the default draw, not used, would move torch's own generator
            layer = nn.Linear(inputs, outputs)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(outputs, inputs, generator=generator) * (2 / inputs) ** 0.5)
            layer.bias.zero_()
        layers += [layer, nn.GELU()]
    with torch.no_grad():
        layers[-2].weight.mul_(0.1)  # type: ignore[operator]
    return nn.Sequential(*layers[:-1])


def trees(lesson: Lesson, seed: int, stop: Stop) -> list[Answer]:
    """Grow gradient-boosted trees until the calibration rows stop gaining."""
    # Seconds to import, for every process that computes: paid by the jobs that probe.
    from sklearn.ensemble import HistGradientBoostingClassifier  # type: ignore[import-untyped, unused-ignore]

    check(stop)
    present = torch.unique(lesson.fit_values)
    known = torch.isin(lesson.check_values, present)
    if len(present) < 2 or not bool(known.any()):
        return [lambda rows: lesson.prior.expand(len(rows), -1)]
    model = HistGradientBoostingClassifier(
        max_iter=TREES, max_leaf_nodes=LEAVES, learning_rate=0.1, l2_regularization=1.0, early_stopping=True, n_iter_no_change=8,
        validation_fraction=None, random_state=seed,
    )  # fmt: skip
    # Rows are repeated by their weights: given as weights they cost scikit-learn 25 times the time, all of it in weighted quantiles.
    fits, checks = _repeated(lesson.fit_weights), _repeated(lesson.check_weights * known)
    model.fit(
        lesson.fit[fits].numpy(), lesson.fit_values[fits].numpy(),
        X_val=lesson.check[checks].numpy(), y_val=lesson.check_values[checks].numpy(),
    )  # fmt: skip

    def answer(rows: Tensor) -> Tensor:
        shares: NDArray[np.float64] = model.predict_proba(rows.numpy())
        scores = torch.full((len(rows), lesson.values), log(SMOOTHING / lesson.values), dtype=torch.float64)
        scores[:, present] = torch.from_numpy(np.log(np.clip(shares, SMOOTHING / lesson.values, None)))
        return scores

    return [answer]


def _repeated(weights: Tensor) -> Tensor:
    """Return as many row numbers as there are rows, each about as often as its weight in means says: equal weights give each row once."""
    ends = (weights.double() / weights.double().mean()).cumsum(dim=0)
    return torch.searchsorted(ends, torch.arange(len(ends), dtype=torch.float64) + 0.5).clamp(max=len(ends) - 1)


READERS: dict[str, Reader] = {"linear": linear, "mlp": mlp, "trees": trees}
"""The families of readers, cheapest first."""
