"""A linearised core as named tensors, and back: every name, shape, type and value is checked before it is believed."""

from __future__ import annotations

import torch
from torch import Tensor

from models.linear.core_file import NET, CoreMismatch, load_network, refuse_unfit
from models.linear.tangent import Tangent, linearise
from models.linear.whole import WholeCore
from models.nets import Architecture

LINEAR, USER = "linear.", "user."
POSITIVE = ("ridge", "target", "sigma", "mu_max")
SCALARS = ("logit_scale", *POSITIVE)


def whole_tensors(core: WholeCore, *, mu_max: float) -> dict[str, Tensor]:
    """Return all of the core as tensors: `net.<name>`, `linear.<parameter>` (w_core cut by parameter) and 0-d float64 scalars."""
    tensors = {NET + name: value.detach().clone() for name, value in core.tangent.net.state_dict().items()}
    tensors |= {LINEAR + name: value.double() for name, value in core.tangent.named(core.weight).items()}
    scalars = {"logit_scale": core.logit_scale, "ridge": core.ridge, "target": core.target, "sigma": core.sigma, "mu_max": mu_max}
    tensors |= {name: torch.tensor(value, dtype=torch.float64) for name, value in scalars.items()}
    return {name: value.contiguous() for name, value in tensors.items()}


def load_whole(architecture: Architecture, layers: tuple[str, ...] | None, tensors: dict[str, Tensor]) -> WholeCore:
    """Build the core that `whole_tensors` wrote down.

    Args:
        layers: what is linearised; None takes all parameters.

    Raises:
        CoreMismatch: naming the first tensor that is missing, unknown, of another shape or type, not finite, or out of range.
    """
    tensors = dict(tensors)
    network = {name[len(NET) :]: tensors.pop(name) for name in list(tensors) if name.startswith(NET)}
    try:
        tangent = linearise(load_network(architecture, network, prefix=NET), layers)
    except CoreMismatch:
        raise
    except ValueError as error:
        raise CoreMismatch(str(error)) from error
    weight = _vector(tangent, tensors, LINEAR, torch.float64, others=SCALARS)
    for name in SCALARS:
        refuse_unfit(name, tensors[name], (), torch.float64)
        if float(tensors[name]) < 0 or (name in POSITIVE and float(tensors[name]) == 0):
            raise CoreMismatch(f"{name} is not positive")
    scalars = {name: float(tensors[name]) for name in SCALARS if name != "mu_max"}
    return WholeCore(tangent=tangent, weight=weight, **scalars)


def user_tensors(tangent: Tangent, weights: Tensor) -> dict[str, Tensor]:
    """Return user weights `[p]` as `user.<parameter>`, float32."""
    return {USER + name: value.float().contiguous() for name, value in tangent.named(weights).items()}


def load_user(tangent: Tangent, tensors: dict[str, Tensor]) -> Tensor:
    """Return the user weights that `user_tensors` wrote down, `[p]` float64.

    Raises:
        CoreMismatch: as `load_whole`.
    """
    return _vector(tangent, dict(tensors), USER, torch.float32, others=()).double()


def _vector(tangent: Tangent, tensors: dict[str, Tensor], prefix: str, dtype: torch.dtype, *, others: tuple[str, ...]) -> Tensor:
    names = [prefix + name for name in tangent.names]
    for name in (*names, *others):
        if name not in tensors:
            raise CoreMismatch(f"{name} is missing")
    for name in tensors:
        if name not in names and name not in others:
            raise CoreMismatch(f"{name} is not part of this model")
    for name in tangent.names:
        refuse_unfit(prefix + name, tensors[prefix + name], tuple(tangent.net.get_parameter(name).shape), dtype)
    return tangent.vector({name: tensors[prefix + name] for name in tangent.names})
