"""The core: a frozen network, the integer features it gives, and f0, all made from core rows alone."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log2, prod

import numpy as np
import torch
from torch import Tensor

from models.linear.features import BATCH, FEATURE_SCALE, activations, quantise, refuse_not_finite, to_int16
from models.linear.statistics import LARGEST, Rows, Statistics, curvature
from models.nets import Architecture, Network
from models.progress import Progress, Stop, never, silent

TARGET = 5.0
"""a: the target of the right class; the others are 0. Source: LQF, CVPR 2021, section 3. https://arxiv.org/abs/2012.11140"""

SCALARS = ("feature_scale", "target_scale", "logit_scale", "ridge", "target")


@dataclass(frozen=True)
class Core:
    """Everything of a model that no user row has touched. f0(x) = c net(x) + s q(x)^T w_core."""

    architecture: Architecture
    """The network's form. With `core: none` only its input shape and number of classes count."""

    net: Network | None
    """In eval mode, without gradients; None with `core: none`."""

    tap_index: Tensor
    """`[d-1]` int64: which taps are features, ascending."""

    tap_mean: Tensor
    """`[d-1]` float64, over core rows."""

    tap_scale: Tensor
    """`[d-1]` float64 > 0: standard deviations over core rows, or the declared range."""

    feature_scale: float
    """s: an integer feature times s is the standardised feature."""

    target_scale: float
    """s_r: an integer target times s_r is t - f0. A power of two."""

    logit_scale: float
    """c >= 0: brings the network's logits to the scale of the targets."""

    ridge: float
    """L > 0, in sum form."""

    target: float
    """a > 0: the target vector of a sample is a times its one-hot label."""

    weight: Tensor
    """w_core `[d, C]` float64, rounded so that q^T w_core is exact in float64 (see `exactly_summable`)."""

    @property
    def d(self) -> int:
        """Number of features, the constant one included."""
        return len(self.tap_index) + 1

    @property
    def classes(self) -> int:
        """Length of the declared list of classes."""
        return self.architecture.classes


def plain_core(architecture: Architecture, *, range: float, ridge: float, target: float = TARGET) -> Core:
    """Make the core of the plain linear model (`core: none`): f0 = 0, features = inputs / range and a constant.

    Args:
        architecture: of which the input shape and the classes are used.
        range: what raw inputs are divided by, 255 for pixels; inputs beyond 8 times it are cut.
        ridge: L > 0, given: there are no core rows to choose it on.
        target: a > 0.

    Raises:
        ValueError: on a range, ridge or target that is not positive and finite, or an architecture with an adapter.
    """
    if architecture.adapter is not None:
        raise ValueError("a core without network has nothing that passes an adapter")
    for name, value in (("range", range), ("ridge", ridge), ("target", target)):
        refuse_unless_positive(name, value)
    count = prod(architecture.input_shape)
    return Core(
        architecture=architecture,
        net=None,
        tap_index=torch.arange(count),
        tap_mean=torch.zeros(count, dtype=torch.float64),
        tap_scale=torch.full((count,), float(range), dtype=torch.float64),
        feature_scale=FEATURE_SCALE,
        target_scale=target_scale(target, largest=target),
        logit_scale=0.0,
        ridge=float(ridge),
        target=float(target),
        weight=torch.zeros(count + 1, architecture.classes, dtype=torch.float64),
    )


def encode(core: Core, inputs: Tensor, labels: Tensor, *, progress: Progress = silent, stop: Stop = never) -> Rows:
    """Turn samples into integer rows. The bits of a row depend on that sample and the core alone.

    Args:
        inputs: `[n, C, H, W]` uint8 or `[n, k]` float32, of the architecture's shape.
        labels: `[n]` int64 below the number of classes.

    Raises:
        ValueError: on inputs of another shape, or a label outside the classes.
        NotFinite: naming the first row with a value that is not finite.
    """
    if len(inputs) != len(labels):
        raise ValueError(f"{len(inputs)} inputs and {len(labels)} labels are not the same rows")
    outside = ((labels < 0) | (labels >= core.classes)).nonzero().flatten()
    if len(outside):
        raise ValueError(f"row {int(outside[0])} has label {int(labels[outside[0]])}, outside the {core.classes} classes")
    features, base, cut_features = read(core, inputs, progress=progress, stop=stop)
    targets, cut_targets = to_int16((targets_of(core, labels) - base) / core.target_scale)
    return Rows(features, targets, cut_features + cut_targets)


def core_statistics(core: Core, inputs: Tensor, *, progress: Progress = silent, stop: Stop = never) -> Statistics:
    """Return the statistics that every model on this core begins with: the core rows' A, and B = 0.

    Args:
        inputs: the core rows' inputs; with `core: none`, no rows.
    """
    features, _, _ = read(core, inputs, progress=progress, stop=stop)
    return curvature(features, core.classes)


def core_logits(core: Core, inputs: Tensor, *, progress: Progress = silent, stop: Stop = never) -> Tensor:
    """Return f0 `[n, C]` float64: what the model says before, and after forgetting, all user rows."""
    return read(core, inputs, progress=progress, stop=stop)[1]


def logits(core: Core, weights: Tensor, inputs: Tensor, *, progress: Progress = silent, stop: Stop = never) -> Tensor:
    """Return f0 + s q^T w `[n, C]` float64. Where all weights are 0 these are `core_logits` bit for bit.

    Args:
        weights: user weights `[d, C]` float64.
    """
    features, base, _ = read(core, inputs, progress=progress, stop=stop)
    if not bool(weights.any()):
        return base
    return base + linear_part(features, weights, scale=core.feature_scale)


def logits_of_rows(core: Core, weights: Tensor, rows: Rows, labels: Tensor) -> Tensor:
    """Return the logits of samples kept as integers, from their rows and labels: t - s_r r + s q^T w, `[n, C]` float64.

    Each differs from `logits` by at most s_r / 2 (about a 20,000th of a), the rounding of the target, unless the target was cut.
    """
    base = targets_of(core, labels) - core.target_scale * rows.targets.double()
    return base + linear_part(rows.features, weights, scale=core.feature_scale)


def targets_of(core: Core, labels: Tensor) -> Tensor:
    """Return t = a onehot(label), `[n, C]` float64."""
    return one_hot(labels, classes=core.classes, target=core.target)


def one_hot(labels: Tensor, *, classes: int, target: float) -> Tensor:
    """Return `[n, C]` float64 with `target` at each row's label and 0 elsewhere."""
    return torch.nn.functional.one_hot(labels, classes).double() * target


def read(core: Core, inputs: Tensor, *, progress: Progress = silent, stop: Stop = never) -> tuple[Tensor, Tensor, int]:
    """Read rows through the core.

    Returns:
        Integer features `[n, d]` int16, f0 `[n, C]` float64, and how many features were cut.
    """
    expected = core.architecture.input_shape
    if tuple(inputs.shape[1:]) != expected:
        raise ValueError(f"inputs of shape {tuple(inputs.shape[1:])} do not fit a model of {expected}")
    if core.net is None:
        refuse_not_finite(inputs, first=0)
        taps, out = inputs.flatten(1).float(), None
    else:
        taps, out = activations(core.net, inputs, progress=progress, stop=stop)
    features, saturated = quantise(taps, index=core.tap_index, mean=core.tap_mean, scale=core.tap_scale)
    base = torch.zeros(len(inputs), core.classes, dtype=torch.float64)
    if out is not None:
        base = core.logit_scale * out.double() + linear_part(features, core.weight, scale=core.feature_scale)
    return features, base, saturated


def linear_part(features: Tensor, weights: Tensor, *, scale: float) -> Tensor:
    """Return s q^T w `[n, C]` float64; exact, and so the same for a row in any company, where w is `exactly_summable`."""
    parts = [features[i : i + BATCH].double() @ weights for i in range(0, len(features), BATCH)]
    return scale * torch.cat(parts) if parts else weights.new_zeros(0, weights.shape[1])


def exactly_summable(weight: Tensor) -> Tensor:
    """Round w so that sums of q_j w_j are exact in float64 in any order: f0 must not depend on a row's companions.

    |q| < 2^15; with w a multiple of u and |w| <= 2^b u, every partial sum over d features is a multiple of u below 2^(15 + b) d u,
    which float64 holds exactly while that is at most 2^53 u. At d = 4,096, b = 26: the weights keep about eight digits.

    Args:
        weight: `[d, C]` float64.
    """
    largest = float(weight.abs().max())
    if largest == 0.0:
        return weight
    bits = 53 - 15 - ceil(log2(len(weight)))
    unit = 2.0 ** (ceil(log2(largest)) - bits)
    rounded: Tensor = (weight / unit).round() * unit + 0.0
    return rounded


def target_scale(target: float, *, largest: float) -> float:
    """Return s_r: the least power of two at which 16 bits hold four times a, and twice the largest core residual.

    Args:
        target: a.
        largest: the largest |t - f0| over the core rows.
    """
    return float(2.0 ** ceil(log2(max(4 * target, 2 * largest) / LARGEST)))


def refuse_unless_positive(name: str, value: float) -> None:
    """Raise ValueError unless the value is positive and finite."""
    if not (value > 0 and np.isfinite(value)):
        raise ValueError(f"{name} must be positive and finite, not {value}")
