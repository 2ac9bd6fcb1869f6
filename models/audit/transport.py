"""Couplings of weighted point clouds whose marginals are exact, so that their cost bounds the transport distance from above."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from models.progress import Stop, check

STEPS = 9  # halvings of the entropy's strength, from the mean cost on
SWEEPS = 20  # of both marginals, at each strength
LAST_SWEEPS = 200
TINY = 1e-300


@dataclass(frozen=True)
class Cloud:
    """Points with masses that sum to 1."""

    points: Tensor
    """`[n, d]` float64."""

    masses: Tensor
    """`[n]` float64 >= 0."""


def plan(cost: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return a coupling of two mass vectors with nearly the least cost and exactly these marginals.

    Entropic transport in log space with falling strength, then rounded: rows and columns are scaled down to their masses, and what is
    missing is added as a product.

    Args:
        cost: `[n, m]` float64 >= 0.
        rows: `[n]` positive masses.
        columns: `[m]` positive masses of the same sum.

    Source: Altschuler, Weed & Rigollet, NeurIPS 2017, algorithm 2. https://arxiv.org/abs/1705.09634
    """
    strength = float(cost.mean())
    if strength <= 0:
        return rows[:, None] * columns[None, :] / rows.sum()
    g = strength * columns.log() + cost.amin(dim=0)
    for step in range(STEPS):
        # One exponential a strength: the sweeps are then products. At half the strength shares are squared, so none overflows.
        f = strength * (rows.log() - torch.logsumexp((g[None, :] - cost) / strength, dim=1))
        kernel = ((f[:, None] + g[None, :] - cost) / strength).exp()
        u, w = torch.ones_like(rows), torch.ones_like(columns)
        for _ in range(LAST_SWEEPS if step == STEPS - 1 else SWEEPS):
            w = columns / (kernel.T @ u).clamp(min=TINY)
            u = rows / (kernel @ w).clamp(min=TINY)
        f, g = f + strength * u.log(), g + strength * w.log()
        strength /= 2
    found = u[:, None] * kernel * w[None, :]
    found = found * (rows / found.sum(dim=1)).clamp(max=1.0)[:, None]
    found = found * (columns / found.sum(dim=0)).clamp(max=1.0)[None, :]
    short, thin = (rows - found.sum(dim=1)).clamp(min=0), (columns - found.sum(dim=0)).clamp(min=0)
    missing = thin.sum()
    return found + short[:, None] * thin[None, :] / missing if float(missing) > 0 else found


@dataclass(frozen=True)
class Carried:
    """Where a coupling takes each part of a base cloud: the moments that squared distances need. Parts are listed in the base's order."""

    mean: Tensor
    """`[parts, d]` E[X | part]."""

    square: Tensor
    """`[parts]` E[|X|^2 | part]."""


@dataclass(frozen=True)
class Parts:
    """A cloud in a random order, cut into blocks of equal mass; a point on a boundary belongs to both sides in part."""

    points: Tensor
    """`[parts, d]`."""
    masses: Tensor
    """`[parts]`; each block's sum is 1 / blocks."""
    blocks: tuple[slice, ...]


def cut(cloud: Cloud, blocks: int, generator: torch.Generator) -> Parts:
    """Cut a cloud into blocks of equal mass: coupling block by block is a coupling of the whole."""
    present = (cloud.masses > 0).nonzero().flatten()
    order = present[torch.randperm(len(present), generator=generator)]
    ends = cloud.masses[order].cumsum(dim=0)
    ends = ends / ends[-1]
    walls = torch.arange(1, blocks, dtype=torch.float64) / blocks
    bounds = torch.unique(torch.cat([ends, walls]))
    starts = torch.cat([bounds.new_zeros(1), bounds[:-1]])
    middle = (starts + bounds) / 2
    owner = order[torch.searchsorted(ends, middle).clamp(max=len(order) - 1)]
    block = torch.searchsorted(walls, middle)
    edges = torch.searchsorted(block, torch.arange(blocks + 1)).tolist()
    return Parts(cloud.points[owner], bounds - starts, tuple(slice(a, b) for a, b in pairwise(edges)))


def carry(base: Parts, target: Parts, *, stop: Stop) -> Carried:
    """Couple a base with a target block by block, near the least squared distance."""
    means, squares = [], []
    for here, there in zip(base.blocks, target.blocks, strict=True):
        check(stop)
        x, z = base.points[here], target.points[there]
        share = plan(torch.cdist(x, z).square(), base.masses[here], target.masses[there])
        share = share / base.masses[here][:, None]
        means.append(share @ z)
        squares.append(share @ z.square().sum(dim=1))
    return Carried(torch.cat(means), torch.cat(squares))
