"""What one number says: two releases whose means lie mu standard deviations apart, in the words of each reader.

Source: Dong, Roth & Su, Gaussian differential privacy, 2019, section 2 and corollary 1. https://arxiv.org/abs/1905.02383
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp, inf, sqrt

from scipy.special import log_ndtr, ndtr, ndtri  # type: ignore[import-untyped, unused-ignore]

LARGEST_MU = 40.0  # beyond it no answer differs from certainty


def kl(mu: float) -> float:
    """Return the Kullback-Leibler divergence between the two releases, in nats: mu^2 / 2."""
    return mu * mu / 2


def mu_of_nats(nats: float) -> float:
    """Return the mu whose divergence is `nats`."""
    return sqrt(2 * nats)


def delta(mu: float, epsilon: float) -> float:
    """Return the smallest delta with which the releases are (epsilon, delta)-indistinguishable.

    Phi(mu/2 - eps/mu) - e^eps Phi(-mu/2 - eps/mu), the second term in log space; 0 for mu = 0.
    """
    if mu == 0:
        return 0.0
    return max(0.0, float(ndtr(mu / 2 - epsilon / mu)) - exp(min(700.0, epsilon + float(log_ndtr(-mu / 2 - epsilon / mu)))))


def epsilon(mu: float, delta_: float) -> float:
    """Return the smallest epsilon >= 0 at this delta, rounded up to 1e-6; infinite at delta 0 unless mu is 0."""
    if delta(mu, 0.0) <= delta_:
        return 0.0
    if delta_ <= 0:
        return inf
    high = 1.0
    while delta(mu, high) > delta_:
        high *= 2
    return _turning_point(lambda e: delta(mu, e) <= delta_, 0.0, high, step=1e-6)


def mu_of(epsilon_: float, delta_: float) -> float:
    """Return the largest mu, rounded down to 1e-6, that is (epsilon, delta)-indistinguishable; 0 if only equality is."""
    if delta(LARGEST_MU, epsilon_) <= delta_:
        return LARGEST_MU
    first_too_large = _turning_point(lambda mu: delta(mu, epsilon_) > delta_, 0.0, LARGEST_MU, step=1e-6)
    return max(0.0, first_too_large - 1e-6)


def advantage(mu: float) -> float:
    """Return how much better than guessing the best test tells the releases apart: its TPR minus its FPR, at most 2 Phi(mu/2) - 1."""
    return 2 * float(ndtr(mu / 2)) - 1


def tpr(mu: float, fpr: float) -> float:
    """Return the largest true-positive rate at a false-positive rate: Phi(Phi^-1(FPR) + mu)."""
    return float(ndtr(float(ndtri(fpr)) + mu))


def _turning_point(holds: Callable[[float], bool], low: float, high: float, *, step: float) -> float:
    """Return the smallest number from which on `holds` is true, at most `step` too large; false at `low`, true at `high`."""
    while high - low > step:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
