"""Minimise the quadratic without its matrix: preconditioned conjugate gradients, and the paper's SGD for comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import Any

import torch
from torch import Tensor

from models.linear.curvature import Curvature, Preconditioner
from models.linear.quadratic import Loss, Quadratic, cut, rho
from models.linear.tangent import STEP, away, home, normal
from models.progress import Progress, check, silent

PHASE = "solve"
LOOKED = 10  # times at most that SGD's error is looked at
RESTARTS = 6  # float32 products bring the error down a thousandfold or more each time
MARGIN = 0.9  # conjugate gradients stop when their own residual meets nine tenths of the target: float64 has the last word
FAR, NEAR, LOOKS = 2000.0, 1 / 64, 2
"""Float32 products leave the residual off by up to a thousandth of the error begun with: found at the end, it costs five passes. So where
there is `FAR` times the target to go, two steps at a share `NEAR` of the first error take their product from a gradient in float64 at the
length of the step before. The residual after such a step is that gradient but for the difference of the two lengths."""


@dataclass(frozen=True)
class Descent:
    """Where a solver stopped."""

    w: Tensor
    """`[p]` float64."""

    error: float
    """sqrt(g^T M^-1 g) with g in float64 at `w`: no smaller than the distance to the minimiser in the norm of M."""

    residual: float
    """|g| at `w`."""

    history: tuple[float, ...]
    """The error by the solver's own residual after each step, from the start on."""

    reached: bool
    """Whether `error` is at most what was asked for."""

    passes: int
    """Over the kept rows, core rows with them."""


@dataclass(frozen=True)
class Way:
    """A point on the way, whose gradient in float64 decides whether it is the end."""

    w: Tensor
    """`[p]` float64."""

    history: tuple[float, ...] = ()
    runs: int = 0
    passes: int = 0


def cg(
    quadratic: Loss,
    start: Tensor,
    curvature: Curvature,
    *,
    shape: Curvature | None = None,
    target: float,
    most: int,
    progress: Progress = silent,
) -> Descent:
    """Move from `start` to the minimiser by preconditioned conjugate gradients, until the error is at most `target`.

    The gradient is computed in float64 at the end, after each restart, and twice on a long way; at the start, and for H v in other steps,
    the quadratic's quick type does. The answer is judged by the last gradient, never by the number of steps. A step is as long as makes
    the loss least, but the last one as makes the error least.

    Args:
        start: `[p]` float64, any point; a good one costs fewer steps.
        curvature: makes the preconditioner.
        shape: the M that errors are counted in; None counts them in `curvature`'s.
        target: in the norm of M, the distance to the minimiser.
        most: passes over the kept rows after which to give up.

    Source: Hestenes & Stiefel, 1952; preconditioner as in Frangella, Tropp & Udell, 2021, section 5. https://arxiv.org/abs/2110.02820
    """
    how: dict[str, Any] = {"shape": shape or curvature, "target": target, "most": most, "progress": progress}
    begun = Way(start.clone())
    found = onwards(begun, quadratic.rough(start), lambda: quadratic, curvature, sure=False, **how)
    while isinstance(found, Way):
        found = onwards(found, quadratic.gradient(found.w), lambda: quadratic, curvature, **how)
    return found


def onwards(
    way: Way,
    gradient: Tensor,
    quadratic: Callable[[], Loss],
    curvature: Curvature,
    *,
    shape: Curvature,
    target: float,
    most: int,
    sure: bool = True,
    progress: Progress = silent,
) -> Way | Descent:
    """Judge a point by its gradient in float64; where it misses the target, go on to the next that should meet it.

    Args:
        gradient: `[p]` float64 at `way.w`, whoever computed it.
        quadratic: asked for where steps are to be made.
        shape, target, most: as for `cg`.
        sure: whether products in float64 made the gradient. Others judge nothing.
    """
    w, passes, error = way.w, way.passes + 1, shape.bound(gradient) ** 0.5
    history = list(way.history) or [error]
    if not sure and (error <= target or passes + 2 > most):
        return Way(w, (), way.runs, passes)
    if error <= target or way.runs == RESTARTS or passes + 2 > most:
        return Descent(w, error, float(gradient.norm()), tuple(history), error <= target, passes)
    loss = quadratic()
    preconditioner = Preconditioner(curvature, rho(loss))
    residual, along = -gradient, curvature.along(-gradient)
    shaped = preconditioner.apply(residual, along)
    direction, product, step = shaped, float(residual @ shaped), 0.0
    looks = LOOKS if not way.runs and error > FAR * target else 0
    while passes + 2 <= most:
        if looks and history[-1] <= NEAR * error:
            curved, looks = (loss.gradient(w + step * direction) + residual) / step, looks - 1
        else:
            curved = loss.curved(direction)
        passes += 1
        step = product / float(direction @ curved)
        w, residual = w + step * direction, residual - step * curved
        along = curvature.along(residual)
        back, least = _shorter(shape, residual, step * curved)
        history.append(least)
        progress(PHASE, _share(history[0], least, target))
        if least <= MARGIN * target:
            w = w - back * step * direction
            break
        shaped = preconditioner.apply(residual, along)
        before, product = product, float(residual @ shaped)
        direction = shaped + (product / before) * direction
    return Way(w, tuple(history), way.runs + 1, passes)


def sgd(
    quadratic: Quadratic,
    start: Tensor,
    curvature: Curvature,
    *,
    shape: Curvature | None = None,
    target: float,
    most: int,
    rate: float = 0.1,
    momentum: float = 0.9,
    seed: int = 0,
    progress: Progress = silent,
) -> Descent:
    """Move from `start` to the minimiser as the paper does: SGD on minibatches of q(v) = <v, H v>/2 - <g, v>, w = start - v.

    Plain SGD with momentum, the rate in units of 1 / (the largest eigenvalue known of H), halved after each look at the error. It is kept
    for comparison: on problems with a condition number near a million it comes nowhere near the minimiser.

    Args:
        curvature, shape, target, most: as for `cg`; the error is looked at `LOOKED` times at most, each time by one pass more.
        rate: of a step, times the largest eigenvalue.

    Source: Golatkar et al., CVPR 2021, section 4.2 and appendix. https://arxiv.org/abs/2012.13431
    """
    before = quadratic.passes.total
    gradient, shape = quadratic.gradient(start), shape or curvature
    rows, count = torch.cat([*cut(quadratic.rows), *cut(quadratic.core)]), sum(quadratic.counts)
    largest = quadratic.ridge + (rho(quadratic) * float(curvature.values[-1]) if len(curvature.values) else 0.0)
    v, speed = torch.zeros_like(start), torch.zeros_like(start)
    generator = torch.Generator().manual_seed(seed)
    error = shape.bound(gradient) ** 0.5
    history, reached, first = [error], gradient, quadratic.passes.total
    every = max(1, (most - LOOKED) // LOOKED)
    while error > target and quadratic.passes.total - first + every < most:
        size = rate / largest * 0.5 ** (len(history) - 1)
        for _ in range(every):
            for chosen in torch.split(torch.randperm(count, generator=generator), STEP):
                check(quadratic.stop)
                part = away(quadratic.quick, rows[chosen])
                curved = home(normal(quadratic.quick, part, v)) * (count / len(chosen)) + quadratic.ridge * v
                speed = momentum * speed - size * (curved - gradient)
                v = v + speed
            quadratic.passes.single += 1
        reached = quadratic.gradient(start - v)
        error = shape.bound(reached) ** 0.5
        history.append(error)
        progress(PHASE, _share(history[0], error, target))
    return Descent(start - v, error, float(reached.norm()), tuple(history), error <= target, quadratic.passes.total - before)


def _shorter(shape: Curvature, residual: Tensor, changed: Tensor) -> tuple[float, float]:
    """Return the share of the last step that is better taken back, and the error there; `changed`: what the step took off the residual."""
    along, moved = shape.along(residual), shape.along(changed)
    back = -shape.product(residual, changed, along, moved) / shape.product(changed, changed, moved, moved)
    return back, shape.bound(residual + back * changed, along + back * moved) ** 0.5


def _share(begun: float, now: float, target: float) -> float:
    """How much of the way from the first error to the target is done, on a scale of powers of ten."""
    if now <= target or begun <= target:
        return 1.0
    return max(0.0, min(1.0, log(begun / now) / log(begun / target)))
