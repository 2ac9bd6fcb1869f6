"""Between which two numbers of nats an attribute's leakage lies: the lower end is measured, the upper end follows from what is served."""

from __future__ import annotations

from dataclasses import dataclass
from math import log, sqrt
from typing import Literal

import torch
from torch import Tensor

from models.audit.balance import balanced
from models.audit.probe import Held, Probed
from models.audit.transport import Carried, Cloud, Parts, carry, cut
from models.erase.code_information import code_information
from models.progress import Stop, never

BLOCK = 512  # points coupled with one another at most: the work grows with points times block
SMALLEST_BLOCK = 64
WORK = 10_000_000  # points times values times block
DRAWS = 2000
LEAST = 1e-4  # probabilities of binary neurons are cut to [1e-4, 1 - 1e-4] in training, serving and here alike

How = Literal["exact", "bits", "transport", "trivial"]


@dataclass(frozen=True)
class Interval:
    """Where I(served; v) lies, in nats, in the population in which every cell (label, value) weighs the same."""

    lower: float
    """The probes' lower 95 % limit, simultaneous over them; for `exact` the value itself."""

    upper: float
    """Never above H(v)."""

    how: How
    """exact: summed over all codes. bits: the bound for many binary neurons. transport: for added Gaussian noise. trivial: H(v)."""

    by: str
    """Which distribution or bound gave the upper end, in words."""

    access: Literal["served outputs", "weights"]
    """For whom the upper end holds. Whoever holds the weights computes without noise: for them it is H(v)."""

    entropy: float
    """H(v), the trivial upper end."""

    measured: float | None = None
    """Of a noisy bottleneck: Monte Carlo estimate of the information itself over the audit rows."""

    measured_ci95: tuple[float, float] | None = None

    @property
    def contradiction(self) -> bool:
        """Whether the measured end lies above the other: by chance once in twenty audits, else an audit or the serving is wrong."""
        return self.lower > self.upper


def trivial(probed: Probed) -> Interval:
    """Return the interval of features that are served as they are."""
    return Interval(probed.lower, probed.entropy, "trivial", "H(v) (trivial)", "weights", probed.entropy)


def quantised(theta: Tensor, values_of: Tensor, labels: Tensor, probed: Probed | None, *, values: int, classes: int) -> Interval:
    """Return the interval of independent binary neurons, served as one draw per input: exact up to 14 of them, a bound beyond.

    Args:
        theta: `[n, m]` probabilities of the audit rows.
        probed: fresh probes of served draws, for the lower end beyond 14 neurons; None gives 0.
    """
    population = balanced(values_of, labels, values=values, classes=classes)
    weights = torch.from_numpy(population.weights)
    found = code_information(theta.double().clamp(LEAST, 1 - LEAST), values_of, values, weights)
    if found.exact is not None:
        exact = min(found.exact * log(2), population.entropy)  # from bits; above H(v) only by rounding
        return Interval(exact, exact, "exact", f"all {1 << theta.shape[1]:,} codes", "served outputs", population.entropy)
    bound = min(found.bound * log(2), population.entropy)
    lower = 0.0 if probed is None else probed.lower
    return Interval(lower, bound, "bits", f"bound for {theta.shape[1]} binary neurons", "served outputs", population.entropy)


def noisy(held: Held, probed: Probed | None, *, sigma: float, values: int, classes: int, seed: int, stop: Stop = never) -> Interval:
    """Return the interval of features served with Gaussian noise, h + sigma eps, one draw per input.

    For the audit rows and any distribution Q,  I(h + sigma eps; v) <= sum_v p(v) W2^2(P_v, Q) / (2 sigma^2),  since v -> h -> h + sigma eps
    has I = min_Q sum_v p(v) KL(P_v * N || Q * N), and a coupling of P_v and Q bounds each divergence by joint convexity. Tried are
    a point mass at the mean, Q = P and barycentres; W2^2 is replaced by the cost of a coupling with exact marginals, which is no less.

    Args:
        held: the audit rows' features **before** the noise.
        probed: fresh probes of served draws, for the lower end; None gives 0.
        sigma: > 0, the noise's standard deviation in each feature.
        seed: draws the blocks that are coupled and the Monte Carlo rows.

    Source: Polyanskiy & Wu, Information theory, 2024, section 7 (convexity of divergence) with the divergence of shifted Gaussians.
    """
    if sigma <= 0:
        raise ValueError("noise has a positive standard deviation")
    population = balanced(held.values, held.labels, values=values, classes=classes)
    weights, points = torch.from_numpy(population.weights), held.features.double()
    marginal = torch.from_numpy(population.marginal)
    spreads = costs(points, weights, held.values, marginal, seed=seed, stop=stop)
    by, cost = min(spreads.items(), key=lambda found: found[1])
    bound = max(0.0, cost) / (2 * sigma * sigma)
    if bound >= population.entropy:
        by, bound = "H(v) (trivial)", population.entropy
    how: How = "transport" if bound < population.entropy else "trivial"
    value, ci95 = mixture_information(points, weights, held.values, sigma=sigma, values=values, seed=seed)
    lower = 0.0 if probed is None else probed.lower
    return Interval(lower, bound, how, by, "served outputs", population.entropy, value, ci95)


def costs(points: Tensor, weights: Tensor, values_of: Tensor, marginal: Tensor, *, seed: int, stop: Stop = never) -> dict[str, float]:
    """Return upper bounds of sum_v p(v) W2^2(P_v, Q) for each Q that is tried.

    A base cloud b is coupled with X_v ~ P_v for every v. For Q = base the cost is sum_v p(v) E|X_v - b|^2. With X_v independent
    given b, their mean X = sum_v p(v) X_v is a barycentre, of cost sum_v p(v) E|X_v|^2 - E|X|^2.

    Args:
        points: `[n, d]` float64.
        weights: `[n]`, summing to 1.
    """
    generator = torch.Generator().manual_seed(seed)
    points = points - (weights[:, None] * points).sum(dim=0)  # squares lose fewer digits around the mean
    present = [v for v in range(len(marginal)) if float(marginal[v]) > 0]
    clouds = {v: Cloud(points, weights * (values_of == v) / marginal[v]) for v in present}
    second = float((weights * points.square().sum(dim=1)).sum())
    found = {"a point mass at the mean": second}
    rows = int((weights > 0).sum())
    block = max(SMALLEST_BLOCK, min(BLOCK, WORK // (rows * len(present))))
    largest = max(present, key=lambda v: float((clouds[v].masses > 0).sum()))
    for name, base in (("all rows", Cloud(points, weights)), ("the largest group", clouds[largest])):
        blocks = -(-int((base.masses > 0).sum()) // block)
        parts = cut(base, blocks, generator)
        carried = {v: carry(parts, cut(clouds[v], blocks, generator), stop=stop) for v in present if base is not clouds[v]}
        if base is clouds[largest]:
            carried[largest] = Carried(parts.points, parts.points.square().sum(dim=1))
        else:
            found["the distribution of all rows"] = _to_base(parts, carried, marginal)
        found[f"a barycentre from {name}"] = _to_barycentre(parts, carried, marginal)
    return found


def _to_base(parts: Parts, carried: dict[int, Carried], marginal: Tensor) -> float:
    own = parts.points.square().sum(dim=1)
    each = {v: to.square - 2 * (to.mean * parts.points).sum(dim=1) + own for v, to in carried.items()}
    return float(sum(marginal[v] * (parts.masses * cost).sum() for v, cost in each.items()))


def _to_barycentre(parts: Parts, carried: dict[int, Carried], marginal: Tensor) -> float:
    mean = torch.stack([marginal[v] * to.mean for v, to in carried.items()]).sum(dim=0)
    spread = torch.stack([marginal[v] ** 2 * (to.square - to.mean.square().sum(dim=1)) for v, to in carried.items()]).sum(dim=0)
    square = torch.stack([marginal[v] * to.square for v, to in carried.items()]).sum(dim=0)
    return float((parts.masses * (square - mean.square().sum(dim=1) - spread)).sum())


def mixture_information(
    points: Tensor, weights: Tensor, values_of: Tensor, *, sigma: float, values: int, seed: int, draws: int = DRAWS
) -> tuple[float, tuple[float, float]]:
    """Estimate I(h + sigma eps; v) in nats over the weighted rows by drawing from it: the mean of ln p(z | v) / p(z), and its interval.

    Both densities are the rows' own Gaussian mixtures, so nothing but the drawing is estimated. Tighter than a bound, and not one.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.multinomial(weights, draws, replacement=True, generator=generator)
    noise = torch.randn(draws, points.shape[1], generator=generator, dtype=torch.float64)
    z = points[chosen] + sigma * noise
    marginal = torch.zeros(values, dtype=torch.float64).index_add_(0, values_of, weights)
    gains = []
    for some in torch.split(torch.arange(draws), max(1, 4_000_000 // len(points))):
        exponent = -torch.cdist(z[some], points).square() / (2 * sigma * sigma) + weights.log()
        whole = torch.logsumexp(exponent, dim=1)
        own = values_of[chosen[some]]
        same = torch.logsumexp(exponent.masked_fill(own[:, None] != values_of[None, :], float("-inf")), dim=1)
        gains.append(same - marginal[own].log() - whole)
    found = torch.cat(gains)
    mean, half = float(found.mean()), 1.96 * float(found.std()) / sqrt(draws)
    top = -float(torch.special.xlogy(marginal, marginal).sum())
    return max(0.0, mean), (max(0.0, mean - half), min(top, max(0.0, mean + half)))
