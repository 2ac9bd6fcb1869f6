"""Whether the numbers of a Gaussian guarantee say the same thing, computed again from mu with the standard library alone."""

from collections.abc import Mapping
from math import erfc, exp, inf, sqrt
from statistics import NormalDist
from typing import Any

_LARGEST_MU, _LARGEST_EPSILON = 40.0, 700.0  # beyond them nothing is guaranteed, and numbers overflow
_DIGITS = 2e-5  # relative: the numbers are written with six digits


def agree(value: Mapping[str, Any]) -> bool:
    """Require what mu means: kl = mu^2 / 2, advantage = 2 Phi(mu/2) - 1, TPR = Phi(Phi^-1(FPR) + mu), and delta at epsilon.

    Source: Dong, Roth & Su, 2019, corollary 1. https://arxiv.org/abs/1905.02383
    """
    mu, epsilon, sigma = (float(value[name]) for name in ("mu", "epsilon", "sigma"))
    if not (0 < mu <= _LARGEST_MU and 0 <= epsilon <= _LARGEST_EPSILON and 0 < sigma < inf):
        return False
    expected = {
        "kl_nats": mu * mu / 2,
        "advantage": 2 * _phi(mu / 2) - 1,
        "tpr_at_fpr_0.001": _phi(NormalDist().inv_cdf(0.001) + mu),
    }
    close = all(abs(float(value[name]) - number) <= _DIGITS * number for name, number in expected.items())
    # epsilon is written with six digits too: a delta that small a step further must be kept to.
    return close and _delta(mu, epsilon * (1 + _DIGITS) + 1e-6) <= float(value["delta"])


def _delta(mu: float, epsilon: float) -> float:
    second = _phi(-mu / 2 - epsilon / mu)
    return _phi(mu / 2 - epsilon / mu) - (exp(epsilon) * second if second else 0.0)


def _phi(x: float) -> float:
    """The normal distribution function, exact far out too."""
    return erfc(-x / sqrt(2)) / 2
