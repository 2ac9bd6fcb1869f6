"""The interval of an attribute's leakage contains the exact value wherever that is known; transport costs by POT as the second opinion."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from models.audit.balance import balanced
from models.audit.interval import costs, mixture_information, noisy, quantised, trivial
from models.audit.probe import Held, Probed, probe
from models.audit.transport import plan
from models.erase.code_information import code_information

GRID = np.linspace(-40, 40, 8001)


def density(means: np.ndarray, masses: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian mixture on the grid."""
    found: np.ndarray = (masses * np.exp(-((GRID[:, None] - means) ** 2) / (2 * sigma**2))).sum(axis=1) / (sigma * np.sqrt(2 * np.pi))
    return found


def information(each: list[np.ndarray], shares: list[float]) -> float:
    """I in nats of a value with densities `each` on the grid, by numeric integration."""
    mixture = sum(p * d for p, d in zip(shares, each, strict=True))
    inside = sum(p * d * np.log(np.maximum(d, 1e-300) / np.maximum(mixture, 1e-300)) for p, d in zip(shares, each, strict=True))
    return float(np.trapezoid(inside, GRID))


def readers(features: Tensor, v: Tensor, y: Tensor, values: int, seed: int) -> Probed:
    half = torch.arange(len(v)) < len(v) // 2
    rows = Held(features.float(), v, y)
    train, test = rows.select(half), rows.select(~half)
    return probe(train, test, values=values, classes=2, seed=seed, resamples=200, conditional=False, readers=("linear",))


def test_a_noisy_bottleneck_s_interval_contains_the_closed_form_in_fifty_random_cases() -> None:
    tight = 0
    for seed in range(50):
        g = np.random.default_rng(seed)
        values, sigma, spread = int(g.integers(2, 4)), float(g.uniform(0.5, 3)), float(g.uniform(0.1, 2))
        means = g.uniform(0, 2, values)
        v, y = torch.arange(240) % values, torch.arange(240) // values % 2
        levels = norm.ppf((np.arange(240 // values) + 0.5) / (240 // values))  # audit rows that are distributed as the population is
        x = torch.from_numpy(means)[v] + spread * torch.from_numpy(np.stack([g.permutation(levels) for _ in range(values)], axis=1).ravel())
        served = x + sigma * torch.from_numpy(g.standard_normal(240))
        seen = readers(served[:, None], v, y, values, seed)

        found = noisy(Held(x[:, None].float(), v, y), seen, sigma=sigma, values=values, classes=2, seed=seed)

        wide = float(np.hypot(spread, sigma))
        population = information([density(np.array([m]), np.array([1.0]), wide) for m in means], [1 / values] * values)
        rows = [x.numpy()[v.numpy() == k] for k in range(values)]
        drawn = information([density(r, np.full(len(r), 1 / len(r)), sigma) for r in rows], [1 / values] * values)
        assert found.lower <= population <= found.upper + 1e-12, seed
        assert drawn <= found.upper + 1e-9, seed  # a theorem about these very rows
        assert found.measured is not None and found.measured_ci95 is not None
        assert abs(found.measured - drawn) < 3 * (found.measured_ci95[1] - found.measured_ci95[0]), seed
        assert found.upper <= found.entropy and not found.contradiction
        tight += found.upper < 0.5 * found.entropy
    assert tight > 25  # the bound says something


def enumerated(theta: np.ndarray, v: np.ndarray, weights: np.ndarray, values: int) -> float:
    """I(T; v) in nats, code by code."""
    joint = np.zeros((values, 2 ** theta.shape[1]))
    for number, code in enumerate(product((0, 1), repeat=theta.shape[1])):
        likely = np.prod(np.where(np.array(code) == 1, theta, 1 - theta), axis=1)
        for k in range(values):
            joint[k, number] = (weights * likely)[v == k].sum()
    outer = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    return float((joint * np.log(joint / outer)).sum())


def test_a_quantised_bottleneck_s_interval_contains_the_enumerated_value_in_fifty_random_cases() -> None:
    for seed in range(50):
        g = np.random.default_rng(seed)
        values, bits, n = int(g.integers(2, 5)), int(g.integers(1, 7)), 80
        v, y = g.integers(0, values, n), g.integers(0, 2, n)
        theta = 1 / (1 + np.exp(-g.standard_normal((n, bits)) * 2 - g.uniform(0, 2) * v[:, None]))
        tensors = torch.from_numpy(theta), torch.from_numpy(v), torch.from_numpy(y)
        weights = balanced(tensors[1], tensors[2], values=values, classes=2).weights

        found = quantised(*tensors, None, values=values, classes=2)

        truth = enumerated(np.clip(theta, 1e-4, 1 - 1e-4), v, weights, values)
        assert found.how == "exact" and found.lower - 1e-12 <= truth <= found.upper + 1e-12
        wide = code_information(tensors[0].clamp(1e-4, 1 - 1e-4), tensors[1], values, torch.from_numpy(weights))
        assert truth <= wide.bound * np.log(2) + 1e-12


def test_an_exclusive_or_of_two_neurons_is_seen_though_neither_says_anything_alone() -> None:
    bits = torch.tensor(list(product((0.0, 1.0), repeat=2)), dtype=torch.float64).repeat(10, 1)
    theta, v = bits * 0.98 + 0.01, (bits.sum(dim=1) % 2).long()
    y = torch.zeros(40, dtype=torch.int64)

    together = quantised(theta, v, y, None, values=2, classes=1)
    alone = [quantised(theta[:, [j]], v, y, None, values=2, classes=1) for j in (0, 1)]

    assert 0.8 < together.upper / np.log(2) < 0.96
    assert max(one.upper for one in alone) < 1e-9


def test_wide_layers_are_bounded_and_never_summed_over() -> None:
    g = torch.Generator().manual_seed(0)
    v, y = torch.arange(400) % 2, torch.arange(400) // 2 % 2
    theta = torch.sigmoid(0.05 * torch.randn(400, 20, generator=g, dtype=torch.float64) + 0.05 * v[:, None])

    found = quantised(theta, v, y, None, values=2, classes=2)

    assert found.how == "bits" and 0 < found.upper < 0.05 < found.entropy
    assert quantised(theta[:, :14], v, y, None, values=2, classes=2).upper < found.upper


def test_features_served_as_they_are_have_the_trivial_upper_end() -> None:
    v, y = torch.arange(200) % 2, torch.arange(200) // 2 % 2
    seen = readers(torch.randn(200, 3, generator=torch.Generator().manual_seed(0)), v, y, 2, 0)

    found = trivial(seen)

    assert found.how == "trivial" and found.upper == pytest.approx(np.log(2)) and found.access == "weights"
    whole = noisy(Held(torch.eye(200), v, y), seen, sigma=0.01, values=2, classes=2, seed=0)
    assert whole.how == "trivial" and whole.upper == found.upper  # too little noise to say anything


@pytest.mark.parametrize(("n", "m", "d"), [(40, 60, 1), (120, 90, 5), (200, 300, 32)])
def test_a_coupling_costs_hardly_more_than_pot_s_optimum_and_never_less(n: int, m: int, d: int) -> None:
    ot = pytest.importorskip("ot")
    g = np.random.default_rng(d)
    x, z, a, b = g.standard_normal((n, d)), 0.5 + g.standard_normal((m, d)), g.dirichlet(np.ones(n)), g.dirichlet(np.ones(m))
    cost = torch.cdist(torch.from_numpy(x), torch.from_numpy(z)).square()

    found = plan(cost, torch.from_numpy(a), torch.from_numpy(b))

    assert bool((found >= 0).all())
    assert found.sum(dim=1).numpy() == pytest.approx(a, abs=1e-15) and found.sum(dim=0).numpy() == pytest.approx(b, abs=1e-15)
    best = ot.emd2(a, b, cost.numpy())
    assert best - 1e-12 <= float((found * cost).sum()) <= 1.05 * best


def test_each_way_to_bound_costs_no_less_than_pot_says_it_must() -> None:
    ot = pytest.importorskip("ot")
    g = np.random.default_rng(0)
    v = torch.arange(200) % 2
    x = torch.from_numpy(g.standard_normal((200, 3))) + v[:, None]
    weights, marginal = torch.full((200,), 1 / 200, dtype=torch.float64), torch.tensor([0.5, 0.5], dtype=torch.float64)

    found = costs(x, weights, v, marginal, seed=0)

    squares = torch.cdist(x, x).square().numpy()
    uniform = np.full(100, 1 / 100)
    to_all = [ot.emd2(uniform, np.full(200, 1 / 200), squares[v.numpy() == k]) for k in (0, 1)]
    apart = ot.emd2(uniform, uniform, squares[np.ix_(v.numpy() == 0, v.numpy() == 1)])
    assert sum(to_all) / 2 <= found["the distribution of all rows"] <= 1.05 * sum(to_all) / 2
    assert apart / 4 <= found["a barycentre from the largest group"] <= 1.08 * apart / 4  # of two, the midpoint: p0 p1 W2^2
    assert found["a point mass at the mean"] == pytest.approx(float((x - x.mean(dim=0)).square().sum(dim=1).mean()))
    assert min(found, key=lambda name: found[name]).startswith("a barycentre")


def test_blocks_make_the_bound_looser_and_never_wrong() -> None:
    g = torch.Generator().manual_seed(0)
    v, y = torch.arange(3000) % 3, torch.arange(3000) // 3 % 2
    x = torch.randn(3000, 2, generator=g) + 0.5 * v[:, None]

    found = noisy(Held(x, v, y), None, sigma=2.0, values=3, classes=2, seed=0)

    assert found.how == "transport"
    alike = torch.full((3000,), 1 / 3000, dtype=torch.float64)
    exact, _ = mixture_information(x.double(), alike, v, sigma=2.0, values=3, seed=1, draws=4000)
    assert exact - 0.01 < found.upper < 3 * exact
