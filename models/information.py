"""What independent binary neurons with known probabilities say of a value: exact where it can be computed, bounded beyond."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

MOST_BITS = 14
"""Neurons up to which all 2^m codes are summed over."""

LEAST = 1e-4
"""Probabilities are cut to [1e-4, 1 - 1e-4] in training, serving and here alike."""

CHUNK = 1 << 22  # code probabilities held at once, 32 MB


def entropy(shares: Tensor) -> Tensor:
    """Return -sum p ln p in nats over the last axis."""
    found: Tensor = -torch.special.xlogy(shares, shares).sum(dim=-1)
    return found


def binary_entropy(theta: Tensor) -> Tensor:
    """Return h2(theta) in nats, entry by entry."""
    found: Tensor = -torch.special.xlogy(theta, theta) - torch.special.xlogy(1 - theta, 1 - theta)
    return found


def joint_information(theta: Tensor, values_of: Tensor, weights: Tensor | None = None, *, values: int) -> float:
    """Return I(T; v) in nats, exactly, for T_j ~ Bernoulli(theta_j) independent given the row, over the weighted rows.

    P(t | v) = mean over the rows with v of prod_j theta_j^t_j (1 - theta_j)^(1 - t_j), over all 2^m codes t;
    I = sum_v p(v) sum_t P(t | v) ln(P(t | v) / P(t)). A sum of single neurons' informations is not a bound: an exclusive or has none.

    Args:
        theta: `[n, m]`, m at most 14.
        values_of: `[n]` int64 below `values`.
        weights: `[n]` >= 0; None counts all rows alike.

    Raises:
        ValueError: beyond 14 neurons.

    Source: Koeppel et al., AAAI 2023, section 3. https://arxiv.org/abs/2208.02656
    """
    if theta.shape[1] > MOST_BITS:
        raise ValueError(f"{theta.shape[1]} neurons have too many codes: at most {MOST_BITS} can be summed over")
    theta, shares = _prepared(theta, values_of, weights, values)
    joint = torch.zeros(values, 1 << theta.shape[1], dtype=torch.float64)  # P(v, t)
    for rows in _chunks(len(theta), 1 << theta.shape[1]):
        joint += shares[rows].T @ codes(theta[rows])
    return max(0.0, float(entropy(joint.sum(dim=0)) + entropy(joint.sum(dim=1)) - entropy(joint.flatten())))


def codes(theta: Tensor) -> Tensor:
    """Return the probability of each code, `[n, 2^m]`: neuron 0 is the lowest bit of the code's number."""
    found = theta.new_ones(len(theta), 1)
    for column in theta.T:
        found = torch.cat([found * (1 - column)[:, None], found * column[:, None]], dim=1)
    return found


def information_bound(theta: Tensor, values_of: Tensor, weights: Tensor | None = None, *, values: int) -> float:
    """Return an upper bound of I(T; v) in nats for any number of neurons.

    The least of H(v); of what T says of the row, sum_j [h2(mean theta_j) - mean h2(theta_j)]; and of
    sum_{k != l} p_k p_l E_{x ~ k, x' ~ l} sum_j KL(Bern theta_j(x) || Bern theta_j(x')), by convexity of the divergence.

    Args:
        theta: `[n, m]`.
    """
    theta, shares = _prepared(theta, values_of, weights, values)
    marginal = shares.sum(dim=0)
    row = shares.sum(dim=1, keepdim=True)
    of_rows = float((binary_entropy((row * theta).sum(dim=0)) - (row * binary_entropy(theta)).sum(dim=0)).sum())
    within = shares / marginal.clamp(min=1e-300)  # [n, K], each column a distribution
    mean, low, high = within.T @ theta, within.T @ theta.log(), within.T @ (1 - theta).log()  # [K, m]
    negative = -(within.T @ binary_entropy(theta)).sum(dim=1)  # sum_j E_k[a ln a + (1 - a) ln(1 - a)]
    divergence = negative[:, None] - mean @ low.T - (1 - mean) @ high.T  # [K, K]; E over independent pairs
    pairs = marginal[:, None] * marginal[None, :] * divergence
    of_pairs = float(pairs.sum() - pairs.diagonal().sum())
    return max(0.0, min(float(entropy(marginal)), of_rows, of_pairs))


def _prepared(theta: Tensor, values_of: Tensor, weights: Tensor | None, values: int) -> tuple[Tensor, Tensor]:
    """Return theta cut, and P(row, v) `[n, K]`, both float64."""
    weigh = torch.ones(len(theta), dtype=torch.float64) if weights is None else weights.double()
    shares = torch.nn.functional.one_hot(values_of, values).double() * (weigh / weigh.sum())[:, None]
    return theta.double().clamp(LEAST, 1 - LEAST), shares


def _chunks(rows: int, width: int) -> Iterator[slice]:
    step = max(1, CHUNK // width)
    return (slice(start, start + step) for start in range(0, rows, step))
