"""What mu says to each reader, against independent computations."""

from __future__ import annotations

from math import exp

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from models import gaussian


@pytest.mark.parametrize("mu", [0.05, 0.2, 0.268, 1.0, 3.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0, 4.0])
def test_delta_is_the_mass_by_which_one_density_exceeds_the_other(mu: float, epsilon: float) -> None:
    crossing = epsilon / mu + mu / 2
    direct, _ = quad(lambda x: norm.pdf(x, mu) - exp(epsilon) * norm.pdf(x), crossing, crossing + 40, epsabs=1e-14, limit=400)

    assert gaussian.delta(mu, epsilon) == pytest.approx(direct, abs=1e-10)


def test_known_figures() -> None:
    assert gaussian.kl(0.2) == pytest.approx(0.02)
    assert gaussian.advantage(0.2) == pytest.approx(0.0797, abs=1e-4)
    assert gaussian.mu_of(1.0, 1e-5) == pytest.approx(0.268, abs=1e-3)
    assert gaussian.delta(0.0, 0.0) == 0.0 and gaussian.epsilon(0.0, 0.0) == 0.0


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 8.0])
@pytest.mark.parametrize("delta", [1e-10, 1e-5, 1e-2])
def test_the_mu_for_a_wish_meets_it_and_hardly_more_would_not(epsilon: float, delta: float) -> None:
    mu = gaussian.mu_of(epsilon, delta)

    assert gaussian.delta(mu, epsilon) <= delta < gaussian.delta(mu + 3e-6, epsilon)


@pytest.mark.parametrize("mu", [0.1, 0.5, 2.0, 6.0])
def test_the_epsilon_of_a_mu_meets_its_delta_and_hardly_less_would_not(mu: float) -> None:
    epsilon = gaussian.epsilon(mu, 1e-5)

    assert gaussian.delta(mu, epsilon) <= 1e-5 < gaussian.delta(mu, max(0.0, epsilon - 3e-6))


def test_no_attack_on_drawn_releases_does_better_than_stated() -> None:
    mu, rng = 0.7, np.random.default_rng(0)
    forgotten, never = rng.normal(mu, 1, 400_000), rng.normal(0, 1, 400_000)

    advantage = max(float((forgotten > t).mean() - (never > t).mean()) for t in np.linspace(-2, 3, 101))
    cut = np.quantile(never, 0.999)

    assert advantage <= gaussian.advantage(mu) + 0.004
    assert advantage >= gaussian.advantage(mu) - 0.004  # the best attack reaches it: the figure is not an idle upper bound
    assert float((forgotten > cut).mean()) == pytest.approx(gaussian.tpr(mu, 0.001), abs=0.001)


def test_nats_are_turned_into_mu_and_back() -> None:
    assert gaussian.kl(gaussian.mu_of_nats(0.03)) == pytest.approx(0.03)
    assert gaussian.mu_of_nats(0) == 0
