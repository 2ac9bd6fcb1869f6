"""What the bits of a quantised bottleneck say about an attribute: computed, not estimated. All in bits, for one draw an input.

Every figure is exact, or a bound, for the distribution of the rows it is computed from, and for whoever sees served outputs and not
the key. Thresholding the bits instead of drawing them voids all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MOST_EXACT = 14
"""Bits up to which all 2^m codes are counted out."""

CHUNK = 128  # rows whose codes exist at once: 16 MiB at 14 bits


@dataclass(frozen=True)
class CodeInformation:
    """I(T; v) of a stochastic code T with P(T_j = 1 | x) = theta_j(x), independently given x."""

    exact: float | None
    """The joint information; None above 14 bits."""

    bound: float
    """The least of `entropy`, `rate` and `pairwise`: an upper bound at any width."""

    entropy: float
    """H(v)."""

    rate: float
    """sum_j [h2(mean theta_j) - mean h2(theta_j)] >= I(T; x) >= I(T; v)."""

    pairwise: float
    """sum_{k != l} p_k p_l E KL(T | x ~ k, T | x' ~ l); n draws of one input multiply it by n."""

    @property
    def stated(self) -> float:
        """What may be reported: the exact figure where there is one, else the bound."""
        return self.bound if self.exact is None else self.exact


def code_information(theta: Tensor, values_of: Tensor, values: int, weights: Tensor | None = None) -> CodeInformation:
    """Return what one draw of the code says about the attribute.

    Args:
        theta: `[n, m]`, as served: cut to [1e-4, 1 - 1e-4].
        values_of: `[n]` int64 below K; no missing values.
        weights: `[n]` >= 0, the population; None counts all rows alike.

    Raises:
        ValueError: if a theta is 0 or 1: divergences would be infinite.

    Source: Koeppel et al., AAAI 2023 (the layer). https://arxiv.org/abs/2208.02656 The joint sum and both bounds are ours.
    """
    theta = theta.double()
    if not bool(((theta > 0) & (theta < 1)).all()):
        raise ValueError("theta lies strictly between 0 and 1")
    share = torch.ones(len(theta), dtype=torch.float64) if weights is None else weights.double()
    share = share / share.sum()
    prior = torch.zeros(values, dtype=torch.float64).index_add_(0, values_of, share)
    entropy = float(-torch.xlogy(prior, prior).sum() / torch.log(torch.tensor(2.0)))
    rate = float((h2((share[:, None] * theta).sum(dim=0)) - (share[:, None] * h2(theta)).sum(dim=0)).sum())
    pairwise = _pairwise(theta, values_of, prior, share)
    exact = joint(theta, values_of, prior, share) if theta.shape[1] <= MOST_EXACT else None
    return CodeInformation(exact, max(0.0, min(entropy, rate, pairwise)), entropy, rate, pairwise)


def h2(p: Tensor) -> Tensor:
    """Return the binary entropy in bits."""
    out: Tensor = -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)) / torch.log(torch.tensor(2.0, dtype=p.dtype))
    return out


def marginals(theta: Tensor, values_of: Tensor, values: int, weights: Tensor | None = None) -> Tensor:
    """Return sum_j [h2(mean theta_j) - sum_v p(v) h2(mean of theta_j over v)], the training term, in bits.

    Not a bound and never reported: two bits that are told apart only together (XOR) give 0.
    """
    share = theta.new_ones(len(theta)) if weights is None else weights.to(theta)
    share = share / share.sum()
    member = torch.nn.functional.one_hot(values_of, values).to(theta) * share[:, None]  # [n, K]
    prior = member.sum(dim=0)
    means = (member.T @ theta) / prior.clamp_min(1e-12)[:, None]  # [K, m]
    inside = (prior[:, None] * h2(means.clamp(1e-7, 1 - 1e-7)))[prior > 0]
    return (h2((share @ theta).clamp(1e-7, 1 - 1e-7)) - inside.sum(dim=0)).sum()


def joint(theta: Tensor, values_of: Tensor, prior: Tensor, share: Tensor) -> float:
    """Return I(T; v) over all 2^m codes: P(t | v) = mean over x in v of prod_j theta_j^t_j (1 - theta_j)^(1 - t_j)."""
    mass = torch.zeros(len(prior), 2 ** theta.shape[1], dtype=torch.float64)  # P(v, t)
    for start in range(0, len(theta), CHUNK):
        codes = share[start : start + CHUNK, None]
        for column in theta[start : start + CHUNK].T:
            codes = torch.cat([codes * (1 - column[:, None]), codes * column[:, None]], dim=1)
        mass.index_add_(0, values_of[start : start + CHUNK], codes)
    outer = prior[:, None] * mass.sum(dim=0, keepdim=True)
    found = torch.xlogy(mass, mass / outer.clamp_min(1e-300)).sum() / torch.log(torch.tensor(2.0, dtype=torch.float64))
    return max(0.0, float(found))


def _pairwise(theta: Tensor, values_of: Tensor, prior: Tensor, share: Tensor) -> float:
    """The divergence is linear in each side's own moments: no pair of rows is ever formed."""
    values = len(prior)
    member = torch.zeros(values, len(theta), dtype=torch.float64)
    member[values_of, torch.arange(len(theta))] = share
    member = member / prior.clamp_min(1e-300)[:, None]  # [K, n]: rows within a value
    own = member @ (torch.xlogy(theta, theta) + torch.xlogy(1 - theta, 1 - theta)).sum(dim=1)  # [K]
    cross = (member @ theta) @ (member @ theta.log()).T + (member @ (1 - theta)) @ (member @ (1 - theta).log()).T  # [K, K]
    pairs = prior[:, None] * prior[None, :] * (own[:, None] - cross)
    pairs.fill_diagonal_(0.0)
    return max(0.0, float(pairs.sum() / torch.log(torch.tensor(2.0, dtype=torch.float64))))
