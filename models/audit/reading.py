"""Reading features: standardised, and turned into the best linear guess of the image, where a decoder's work begins."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.audit import mixture
from models.audit.causal import resized

RIDGES = (1e-9, 1e-4, 1e-2, 1e-1, 1.0, 10.0)
"""Tried on the held-out images, as fractions of the number of rows: features may outnumber images."""

FAR = 8.0
"""Standard deviations at which h is cut: no training row came near."""


@dataclass(frozen=True)
class Reading:
    """What was learnt of h before the decoder itself is trained."""

    centre: Tensor
    """`[d]` of a vector, or `[k, 1, 1]` of a map, whose channels mean the same everywhere."""

    spread: Tensor
    weight: Tensor
    """`[d + 1, C H W]`, or `[k + 1, C]` for every place of a map; the last row is the constant."""

    shape: tuple[int, int, int]

    def standard(self, h: Tensor) -> Tensor:
        """Return h with mean 0 and deviation 1 on the training rows; `[n, *known]` float32."""
        return ((h.float() - self.centre) / self.spread).clamp(-FAR, FAR)

    def guess(self, h: Tensor) -> Tensor:
        """Return the linear guess of the images, `[n, C, H, W]` in -1 to 1."""
        return _applied(self.weight, self.standard(h), self.shape)


def read(images: Tensor, h: Tensor, kept: Tensor, judged: Tensor) -> Reading:
    """Fit by ridge regression, least squares with the penalty that did best on held-out images.

    Args:
        images: `[n, C, H, W]` uint8.
        h: `[n, d]` or `[n, k, a, b]`.
        kept: row numbers to fit on.
        judged: row numbers to choose the penalty on.
    """
    shape = (images.shape[1], images.shape[2], images.shape[3])
    axes = (0,) if h.dim() == 2 else (0, 2, 3)
    seen = h[kept].float()
    centre, spread = seen.mean(dim=axes, keepdim=h.dim() == 4), seen.std(dim=axes, keepdim=h.dim() == 4)
    if h.dim() == 4:
        centre, spread = centre[0], spread[0]
    spread = torch.where(spread > 1e-6, spread, torch.ones_like(spread))
    reading = Reading(centre, spread, torch.zeros(0), shape)
    x = images.double() * mixture.STEP - 1
    inputs, outputs = _rows(reading.standard(h[kept]), x[kept], shape)
    gram, cross = inputs.T @ inputs, inputs.T @ outputs
    free = torch.ones(len(gram), dtype=torch.float64)
    free[-1] = 0  # the constant is not held back
    found: list[tuple[float, Tensor]] = []
    for ridge in RIDGES:
        weight = torch.linalg.solve(gram + torch.diag(ridge * len(inputs) * free + 1e-9), cross).float()
        error = (_applied(weight, reading.standard(h[judged]), shape) - x[judged]).pow(2).mean()
        found.append((float(error), weight))
    return Reading(centre, spread, min(found, key=lambda tried: tried[0])[1], shape)


def _rows(h: Tensor, x: Tensor, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Inputs and outputs of the regression, float64, the constant last."""
    if h.dim() == 2:
        inputs, outputs = h.double(), x.flatten(1)
    else:
        inputs = resized(h, shape[1:]).double().permute(0, 2, 3, 1).reshape(-1, h.shape[1])
        outputs = x.permute(0, 2, 3, 1).reshape(-1, shape[0])
    return torch.cat([inputs, torch.ones(len(inputs), 1, dtype=torch.float64)], dim=1), outputs


def _applied(weight: Tensor, h: Tensor, shape: tuple[int, int, int]) -> Tensor:
    if h.dim() == 2:
        said = (h @ weight[:-1] + weight[-1]).reshape(-1, *shape)
    else:
        said = torch.einsum("nkij,kc->ncij", resized(h, shape[1:]), weight[:-1]) + weight[-1][:, None, None]
    return said.clamp(-1, 1)
