"""Forget samples of a linearised network: one Newton step on the kept rows, solved without a matrix, released with noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, floor, log10

from torch import Tensor

from models import gaussian
from models.guarantee import Proved
from models.linear.curvature import Curvature, RandomBytes
from models.linear.descent import Descent, cg, sgd
from models.linear.quadratic import Quadratic
from models.progress import Progress, silent

SOLVERS: dict[str, Callable[..., Descent]] = {"cg": cg, "sgd": sgd}
MU_MAX = 0.2
"""The default: an attack is right at most 8 % more often than wrong; .02 nat."""

MOST_PASSES = 200
DELTA = 1e-5  # epsilon is stated at this delta

THEOREM = (
    "With g the gradient of the retained loss at w~ and H its Hessian, the minimiser w* without the forgotten samples satisfies "
    "(w~ - w*)^T M (w~ - w*) <= g^T M^-1 g, because M <= H. The solver ran until g^T M^-1 g <= (mu_max sigma)^2 in float64, so "
    "w~ + sigma z and w* + sigma z with z ~ N(0, M^-1) are mu_max-Gaussian indistinguishable."
)
ASSUMPTIONS = (
    "The core, a, L, the architecture, M, sigma, mu_max and the stopping rule were fixed without the forgotten samples.",
    "z is fresh and secret, from the operating system's cryptographic generator; it and w~ are destroyed once their sum is rounded.",
    "g is the gradient over all kept rows and all core rows, in float64 up to its rounding.",
    "M = U diag(values) U^T + L I is at most the core's curvature up to float64 rounding.",
    "The reference is refitting on the same core, with the same noise.",
    "Only the released weights leave the service.",
)


@dataclass(frozen=True)
class Release:
    """What leaves the service, and what does not."""

    weights: Tensor | None
    """w_out `[p]` float32; None if the target was not reached, and then nothing may be released."""

    descent: Descent
    """Depends on the forgotten samples: for the auditor's record, never for a public certificate."""

    passes: int
    """Over the kept rows, core rows with them."""


def forget(
    kept: Quadratic,
    start: Tensor,
    curvature: Curvature,
    *,
    method: str,
    sigma: float,
    mu_max: float,
    isotropic: bool = False,
    most: int = MOST_PASSES,
    random_bytes: RandomBytes,
    progress: Progress = silent,
) -> Release:
    """Move the user weights to where fitting on the kept rows alone would put them, and hide what is left of the way in noise.

    w~ = w - H_r^-1 g, exact on a quadratic from any start; released is w~ + sigma z, z ~ N(0, M^-1).

    Args:
        kept: the loss over the rows that stay; the forgotten ones are not in it.
        start: `[p]` float64: the weights released before.
        curvature: from core rows alone.
        method: `cg` or `sgd`.
        sigma, mu_max: fixed before the request.
        isotropic: M = L I instead of the core's curvature: the noise pays for the flattest direction.
        most: passes after which to give up.

    Source: Golatkar et al., CVPR 2021, section 4. https://arxiv.org/abs/2012.13431
    """
    shape = curvature.flat() if isotropic else curvature
    found = SOLVERS[method](kept, start, curvature, shape=shape, target=mu_max * sigma, most=most, progress=progress)
    return release(found, shape, sigma=sigma, random_bytes=random_bytes)


def release(found: Descent, shape: Curvature, *, sigma: float, random_bytes: RandomBytes) -> Release:
    """Hide in noise where a solver came to, if it came near enough.

    Args:
        found: judged in the norm of `shape`, which is M.
    """
    if not found.reached:
        return Release(None, found, found.passes)
    return Release((found.w + sigma * shape.draw(random_bytes)).float(), found, found.passes)


def best_mu(release: Release, *, sigma: float) -> float:
    """Return the mu that a solver which stopped short could have stated: for a refusal."""
    return release.descent.error / sigma


def proved(*, sigma: float, mu_max: float, isotropic: bool) -> Proved:
    """State what holds for a release, in the words of each reader. The achieved error is not among them: it depends on what is gone."""
    value = {
        "mu": _text(mu_max),
        "sigma": _text(sigma),
        "noise": "isotropic" if isotropic else "core curvature",
        "kl_nats": _text(gaussian.kl(mu_max)),
        "epsilon": _text(gaussian.epsilon(mu_max, DELTA)),
        "delta": _text(DELTA),
        "advantage": _text(gaussian.advantage(mu_max)),
        "tpr_at_fpr_0.001": _text(gaussian.tpr(mu_max, 0.001)),
        "bound": "g^T M^-1 g",
    }
    return Proved(name="gaussian_indistinguishable", value=value, theorem=THEOREM, assumptions=ASSUMPTIONS)


def _text(number: float) -> str:
    """Six digits, never less than the number but for float64's own rounding: what is stated is what holds at most."""
    if number <= 0:
        return "0"
    unit = 10.0 ** (floor(log10(number)) - 5)
    return f"{ceil(number / unit * (1 - 1e-12)) * unit:.6g}"
