"""Core rows as the linear part sees them: integer features, the network's scaled logits, targets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.data import Samples
from models.linear.features import FEATURE_SCALE, activations, quantise, standardisation
from models.linear.frozen import one_hot
from models.linear.solve import one_blas_thread
from models.linear.statistics import BLOCK, curvature
from models.nets import Network
from models.progress import Progress, Stop, never, silent


@dataclass(frozen=True)
class CoreRows:
    """Rows read through a network, before a ridge is chosen."""

    features: Tensor
    """q `[n, d]` int16."""

    base: Tensor
    """c net(x) `[n, C]` float64."""

    targets: Tensor
    """t `[n, C]` float64."""

    index: Tensor
    mean: Tensor
    scale: Tensor
    """The standardisation of the taps, each `[d-1]`."""

    logit_scale: float
    """c."""


def core_rows(net: Network, samples: Samples, *, target: float, progress: Progress = silent, stop: Stop = never) -> CoreRows:
    """Read core rows through a network: settle the standardisation and the scale of the logits on them.

    c is the slope of the least-squares line from the net's logits to the targets, both centred by class over the rows (the linear
    part's constant has the offsets); 0 where that slope is negative or the logits do not vary.
    """
    taps, out = activations(net, samples.inputs, progress=progress, stop=stop)
    index, mean, scale = standardisation(taps)
    features, _ = quantise(taps, index=index, mean=mean, scale=scale)
    targets, net_logits = one_hot(samples.labels, classes=net.architecture.classes, target=target), out.double()
    centred, wanted = net_logits - net_logits.mean(dim=0), targets - targets.mean(dim=0)
    spread = float(centred.square().sum())
    logit_scale = max(0.0, float((centred * wanted).sum()) / spread) if spread > 0 else 0.0
    return CoreRows(features, logit_scale * net_logits, targets, index, mean, scale, logit_scale)


def normal_equations(rows: CoreRows, chosen: Tensor | None = None) -> tuple[Tensor, NDArray[np.float64]]:
    """Return A = sum q q^T, `[d, d]` int64, and the right side s sum q (t - c net)^T, `[d, C]` float64, over all or the chosen rows."""
    features, residual = rows.features, rows.targets - rows.base
    if chosen is not None:
        features, residual = features[chosen], residual[chosen]
    right = np.zeros((features.shape[1], residual.shape[1]))
    with one_blas_thread():
        for start in range(0, len(features), BLOCK):  # in block order: float sums are not free of it
            right += features[start : start + BLOCK].double().numpy().T @ residual[start : start + BLOCK].numpy()
    return curvature(features, residual.shape[1]).A, FEATURE_SCALE * right
