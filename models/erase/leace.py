"""LEACE: the least change of the features after which no linear reader can tell the attribute, in closed form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from concept_erasure import LeaceFitter
from torch import Tensor
from torch.nn import functional

from models.erase.attribute import Attributed, balance, refuse_unusable
from models.erase.epochs import PHASE, Watch
from models.erase.scope import Scope, bottleneck_values, discharged, extended
from models.nets import Adapter, Network
from models.nets.bottleneck import Affine
from models.progress import Progress, Stop, check, never, silent

TOLERANCE = 1e-8
"""Singular values of W Cov(x, onehot v) above this are erased. The library's default of .01 leaves what is weaker for a reader to find."""


@dataclass(frozen=True, kw_only=True)
class Leace:
    """There is nothing to train.

    Source: Belrose et al., NeurIPS 2023, theorem 4.3. https://arxiv.org/abs/2306.03819
    """

    balanced: bool = False
    """Whether covariances weigh every cell (label, value) alike, as the audit does, instead of every row."""


@dataclass(frozen=True)
class Projection:
    """r(x) = W x + b."""

    weight: Tensor
    """`[d, d]` float64."""

    bias: Tensor
    """`[d]` float64."""


def fit(features: Tensor, values_of: Tensor, values: int, weights: Tensor | None = None) -> Projection:
    """Return r(x) = x - W^+ P W (x - mean) with Cov(r(x), onehot v) = 0 on these rows.

    W = (Cov x)^{-1/2} on its support, P the projection on the columns of W Cov(x, onehot v). No linear reader, and none that is convex in
    a linear score, does better on r(x) than a constant; nothing is said of other readers.

    Args:
        features: `[n, d]`.
        values_of: `[n]` int64 below K; no missing values.
        weights: `[n]` >= 0; None counts all rows alike.
    """
    x, z = features.double(), functional.one_hot(values_of, values).double()
    fitter = LeaceFitter(x.shape[1], values, dtype=torch.float64, svd_tol=TOLERANCE, shrinkage=False, constrain_cov_trace=False)
    if weights is None:
        fitter.update(x, z)
    else:
        share = weights.double()[:, None] / weights.double().sum()
        mean_x, mean_z = (share * x).sum(dim=0), (share * z).sum(dim=0)
        fitter.n += len(x)
        fitter.mean_x, fitter.mean_z = mean_x, mean_z
        weighted = len(x) * share * (x - mean_x)
        fitter.sigma_xx_, fitter.sigma_xz_ = weighted.T @ (x - mean_x), weighted.T @ (z - mean_z)
    eraser = fitter.eraser
    change: Tensor = eraser.proj_left @ eraser.proj_right
    assert eraser.bias is not None
    return Projection(torch.eye(x.shape[1], dtype=torch.float64) - change, change @ eraser.bias)


def erase(
    net: Network,
    rows: Attributed,
    values: int,
    how: Leace,
    *,
    scope: Scope = "bottleneck",
    seed: int = 0,
    watch: Watch | None = None,
    resume: Mapping[str, Tensor] | None = None,
    progress: Progress = silent,
    stop: Stop = never,
) -> Network:
    """Return a new network whose bottleneck, behind an affine adapter, tells linear readers nothing about the attribute.

    The claim is exact for float64 and the rows it was fitted to; the network rounds the map to float32.

    Args:
        net: trained, perhaps with the adapter of another removal, after which this one comes.
        rows: core rows; those without a value are not used.
        scope: only `bottleneck`: the network itself is not trained.

    Raises:
        ValueError: on unusable rows or another scope.
        Stopped: when `stop` answers True.
    """
    refuse_unusable(rows, values, net.architecture.classes)
    if scope != "bottleneck":
        raise ValueError("leace changes nothing before the bottleneck: its scope is `bottleneck`")
    known = rows.known
    out = extended(net, Adapter(kind="affine"), seed=seed)
    place = len(out.links) - 1
    features = bottleneck_values(out, known.samples.inputs, links=place, progress=progress, stop=stop)
    check(stop)
    found = fit(features, known.values, values, balance(known, values) if how.balanced else None)
    link = out.links.get_submodule(str(place))
    assert isinstance(link, Affine)
    with torch.no_grad():
        link.weight.copy_(found.weight)
        link.bias.copy_(found.bias)
    progress(PHASE, 1.0)
    return discharged(out)
