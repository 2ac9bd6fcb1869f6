"""Fit a linearised core: train the network on core rows, then its scale, its ridge, its linear part and its noise on the same rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from models.data import Samples
from models.device import accelerator
from models.linear.core_file import load_network
from models.linear.curvature import Curvature, RandomBytes, mean_square, measure, rank_of
from models.linear.descent import cg
from models.linear.frozen import TARGET, one_hot, refuse_unless_positive
from models.linear.quadratic import Quadratic
from models.linear.tangent import Tangent, forward, linearise, outputs, prepare
from models.linear.whole import WholeCore
from models.nets import Architecture, Network, build
from models.progress import Progress, Stop, never, silent
from models.train import Training, train

SHARES = (1.0, 0.3, 0.1, 0.03, 0.01)
"""L is one of these times the mean squared length of a row of J, to one digit, tried from the largest on: each solution starts the next.

That length is 1.7 for a small network on digits, 1,050 for the convnet on Fashion-MNIST, 240 for resnet20's last block on CIFAR-10 and
2,600 for all of it: no list of values of L is right for all. On Fashion-MNIST (2,000 core, 10,000 user rows, seed 0) L = 30 and 10 give
.8485 and .8517 on test; from w_u = 0 to the same error they take 37 and 56 passes."""

PATIENCE = 2  # values of L in a row that bring nothing, after which no smaller one is tried
SCALE_ROWS = 128  # core rows that the length is measured on

SIGMAS = (0.8, 0.6, 0.4, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.035, 0.025, 0.018, 0.012, 0.009, 0.006, 0.0045, 0.003, 0.002, 0.0015, 0.001)
"""Sigma is the first of these that costs at most `COST`; the last in any case. Steps of about the square root of 2: the more noise, the
farther from the refit a release may be, and the fewer passes it takes. Isotropic noise needs those below .025."""

UNTRIED = 0.025  # sigma where there are too few core rows to try any

COST = 0.005  # accuracy on core rows held out: half a point
DRAWS = 8  # of noise a sigma is tried with
SPLIT_ROWS = 4000  # core rows at most that L and sigma are chosen on
SPLIT_RANK = 1024
ROUGH = 0.02  # of the first error: solutions that are compared on a few hundred rows need no more, nor products in float64
CLOSE = 1e-3  # of the first error, for w_core; whatever it is, it comes from core rows alone
MOST_PASSES = 60
PHASE = "choose ridge"


@dataclass(frozen=True)
class WholeFit:
    """A linearised core and what its forgetting needs, all from core rows."""

    core: WholeCore
    curvature: Curvature


def fit_whole(
    architecture: Architecture,
    samples: Samples,
    training: Training,
    *,
    layers: tuple[str, ...] | None,
    random_bytes: RandomBytes,
    target: float = TARGET,
    ridge: float | None = None,
    sigma: float | None = None,
    isotropic: bool = False,
    rank: int | None = None,
    weights: dict[str, Tensor] | None = None,
    progress: Progress = silent,
    stop: Stop = never,
) -> WholeFit:
    """Fit everything that user rows will not touch, from core rows alone.

    Args:
        layers: what is linearised; None takes all parameters.
        random_bytes: for the noise that sigma is tried with.
        ridge: L > 0; None chooses it, and sigma, on core rows that a second network has not been trained on.
        sigma: None chooses it for the ridge, on the same rows.
        isotropic: what noise sigma is chosen for: that of M = L I, or that of the core's curvature.
        rank: of the curvature's low-rank part; None takes `rank_of`.
        weights: network weights to use instead of training.

    Raises:
        CoreMismatch, NotFinite, Stopped: as `fit_core`.
        ValueError: on fewer than 2 rows, or layers that the network lacks.
    """
    refuse_unless_positive("target", target)
    if len(samples) < 2:
        raise ValueError(f"a core needs at least 2 rows, not {len(samples)}")
    net = _network(architecture, samples, training, weights, progress, stop)
    if ridge is None or sigma is None:
        given = net if weights is not None else None
        tried = ridges(net, samples, layers, seed=training.seed, stop=stop) if ridge is None else (ridge,)
        chosen = _choose(architecture, samples, training, layers, given, target, rank, tried, isotropic, random_bytes, progress, stop)
        ridge, sigma = chosen[0], sigma or chosen[1]
    tangent = linearise(net, layers)
    rows = prepare(tangent, samples.inputs, progress=progress, stop=stop)
    exact = tangent.double()
    curvature = measure(exact, rows, ridge=ridge, rank=rank or rank_of(tangent.p), seed=training.seed, progress=progress, stop=stop)
    scale, missed = _missed(exact, rows, samples.labels, target)
    place = accelerator()
    loss = Quadratic(exact.on(place), tangent.quick(place), rows, missed, rows[:0], ridge, stop)
    w = _solve(loss, torch.zeros(tangent.p, dtype=torch.float64), curvature, share=CLOSE)
    progress("fit linear part", 1.0)
    return WholeFit(WholeCore(tangent, scale, ridge, target, w, sigma), curvature)


def _network(
    architecture: Architecture, samples: Samples, training: Training, weights: dict[str, Tensor] | None, progress: Progress, stop: Stop
) -> Network:
    if weights is not None:
        return load_network(architecture, weights)
    if architecture.adapter is not None:
        raise ValueError("a network with an adapter is given as weights: training it for the task alone would bring the attribute back")
    net = build(architecture, training.seed)
    train(net, samples, training, progress=progress, stop=stop)
    return net


def ridges(net: Network, samples: Samples, layers: tuple[str, ...] | None, *, seed: int, stop: Stop = never) -> tuple[float, ...]:
    """Return the values of L that are tried, from the largest on: `SHARES` of the mean squared length of a row of J over core rows.

    Args:
        net: trained, in eval mode.
        seed: draws the rows that it is measured on.
    """
    tangent = linearise(net, layers)
    some = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))[:SCALE_ROWS]
    scale = mean_square(tangent, prepare(tangent, samples.inputs[some], stop=stop), stop=stop) or 1.0
    return tuple(float(f"{share * scale:.0e}") for share in SHARES)


def _missed(tangent: Tangent, rows: Tensor, labels: Tensor, target: float, scale: float | None = None) -> tuple[float, Tensor]:
    """Return c, fitted to the rows unless given, and t - c net `[n, C]` float64."""
    out, targets = outputs(tangent, rows), one_hot(labels, classes=tangent.classes, target=target)
    if scale is None:
        centred, wanted = out - out.mean(dim=0), targets - targets.mean(dim=0)
        spread = float(centred.square().sum())
        scale = max(0.0, float((centred * wanted).sum()) / spread) if spread > 0 else 0.0
    return scale, targets - scale * out


def _solve(loss: Quadratic, start: Tensor, curvature: Curvature, *, share: float) -> Tensor:
    """Go from `start` to within a share of the error at w = 0."""
    first = curvature.bound(loss.gradient(torch.zeros_like(start))) ** 0.5
    return cg(loss, start, curvature, target=share * first, most=MOST_PASSES).w if first else start


def _choose(
    architecture: Architecture,
    samples: Samples,
    training: Training,
    layers: tuple[str, ...] | None,
    given: Network | None,
    target: float,
    rank: int | None,
    tried: tuple[float, ...],
    isotropic: bool,
    random_bytes: RandomBytes,
    progress: Progress,
    stop: Stop,
) -> tuple[float, float]:
    """Choose L, one of those `tried`, and sigma on core rows that a network has not been trained on.

    Half of the core rows train a second network (a given network stays). A quarter joins them for the linear part, as user rows
    would, and the last quarter judges: the fewest errors win, counts within a standard error are a tie, and of those the largest L is
    taken: it costs the fewest passes and the least accuracy to noise.

    Returns:
        L, and the largest of `SIGMAS` whose noise costs at most `COST` of accuracy there. The noise is shaped by the half of the
        core rows, so it is wider than with all of them: the choice errs to less noise.
    """
    generator = torch.Generator().manual_seed(training.seed)
    order = torch.randperm(len(samples), generator=generator)[:SPLIT_ROWS]
    half, quarter = len(order) // 2, (len(order) - len(order) // 2 + 1) // 2
    learned, joined, held = (samples.select(order[a:b]) for a, b in ((0, half), (half, half + quarter), (half + quarter, len(order))))
    if min(len(learned), len(held)) < 2:
        return tried[len(tried) // 2], UNTRIED
    net = given or build(architecture, training.seed)
    if given is None:
        train(net, learned, training, progress=lambda _, done: progress(PHASE, 0.3 * done), stop=stop)
    tangent = linearise(net, layers)
    exact, quick = tangent.double(), tangent.quick(accelerator())
    rows, others, judges = (prepare(tangent, part.inputs, stop=stop) for part in (learned, joined, held))
    curvature = measure(exact, rows, ridge=tried[0], rank=min(rank or rank_of(tangent.p), SPLIT_RANK), seed=training.seed, stop=stop)
    progress(PHASE, 0.5)
    scale, missed = _missed(exact, rows, learned.labels, target)
    missed = torch.cat([missed, _missed(exact, others, joined.labels, target, scale)[1]])
    said = scale * outputs(exact, judges)
    found, w = [], torch.zeros(tangent.p, dtype=torch.float64)
    for number, ridge in enumerate(tried):
        curvature = replace(curvature, ridge=ridge)
        loss = Quadratic(quick, quick, torch.cat([rows, others]), missed, rows[:0], ridge, stop)
        w = _solve(loss, w, curvature, share=ROUGH)
        moved = forward(tangent, judges, w)
        found.append((int(((said + moved).argmax(dim=1) != held.labels).sum()), moved))
        progress(PHASE, 0.5 + 0.5 * (number + 1) / len(tried))
        if _enough([errors for errors, _ in found]):
            break
    progress(PHASE, 1.0)
    best = _best([errors for errors, _ in found], len(held))
    shaped = replace(curvature.flat() if isotropic else curvature, ridge=tried[best])
    return tried[best], _sigma(tangent, shaped, judges, said + found[best][1], held.labels, random_bytes)


def _enough(errors: list[int]) -> bool:
    """Whether the last `PATIENCE` values of L made no fewer errors than the best before them: smaller ones take the most passes."""
    return len(errors) > PATIENCE and min(errors[-PATIENCE:]) >= min(errors[:-PATIENCE])


def _best(errors: list[int], held: int) -> int:
    """Return the first, and so the largest, L whose errors are within a standard error of the fewest."""
    share = min(errors) / held
    return next(i for i, count in enumerate(errors) if count <= min(errors) + (held * share * (1 - share)) ** 0.5)


def _sigma(tangent: Tangent, curvature: Curvature, rows: Tensor, said: Tensor, labels: Tensor, random_bytes: RandomBytes) -> float:
    noise = [forward(tangent, rows, curvature.draw(random_bytes)) for _ in range(DRAWS)]
    before = float((said.argmax(dim=1) == labels).double().mean())
    for sigma in SIGMAS:
        after = [float(((said + sigma * moved).argmax(dim=1) == labels).double().mean()) for moved in noise]
        if before - float(np.mean(after)) <= COST:
            return sigma
    return SIGMAS[-1]
