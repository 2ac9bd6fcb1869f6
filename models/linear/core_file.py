"""A core as named tensors, and back: every name, shape, type and value is checked before it is believed."""

from __future__ import annotations

from math import log2

import torch
from torch import Tensor

from models.linear.features import FEATURE_SCALE, pooled_side, tap_width
from models.linear.frozen import SCALARS, Core, exactly_summable
from models.nets import Architecture, Network, build

NET = "net."
INDEX, MEAN, SCALE, WEIGHT = "tap.index", "tap.mean", "tap.scale", "core.weight"


class CoreMismatch(ValueError):
    """A tensor that the architecture asks for is missing, or one does not fit it. The message names the tensor."""


def core_tensors(core: Core) -> dict[str, Tensor]:
    """Return all of the core as tensors: `net.<name>` for parameters and buffers, `tap.*`, `core.weight`, and 0-d float64 scalars."""
    tensors = {NET + name: value.detach().clone() for name, value in core.net.state_dict().items()} if core.net is not None else {}
    tensors |= {INDEX: core.tap_index, MEAN: core.tap_mean, SCALE: core.tap_scale, WEIGHT: core.weight}
    tensors |= {name: torch.tensor(getattr(core, name), dtype=torch.float64) for name in SCALARS}
    return {name: value.contiguous() for name, value in tensors.items()}


def load_core(architecture: Architecture, tensors: dict[str, Tensor]) -> Core:
    """Build the core that `core_tensors` wrote down. Without any `net.` tensor it is a core without network.

    Raises:
        CoreMismatch: naming the first tensor that is missing, unknown, of another shape or type, not finite, or out of range.
    """
    tensors = dict(tensors)
    network = {name[len(NET) :]: tensors.pop(name) for name in list(tensors) if name.startswith(NET)}
    if architecture.adapter is not None and not network:
        raise CoreMismatch(f"{NET}adapter is missing")
    net = load_network(architecture, network, prefix=NET) if network else None
    for name in (INDEX, MEAN, SCALE, WEIGHT, *SCALARS):
        if name not in tensors:
            raise CoreMismatch(f"{name} is missing")
    for name in tensors:
        if name not in (INDEX, MEAN, SCALE, WEIGHT, *SCALARS):
            raise CoreMismatch(f"{name} is not part of this core")
    count = len(tensors[INDEX]) if tensors[INDEX].dim() == 1 else 0
    refuse_unfit(INDEX, tensors[INDEX], (count,), torch.int64)
    refuse_unfit(MEAN, tensors[MEAN], (count,), torch.float64)
    refuse_unfit(SCALE, tensors[SCALE], (count,), torch.float64)
    refuse_unfit(WEIGHT, tensors[WEIGHT], (count + 1, architecture.classes), torch.float64)
    for name in SCALARS:
        refuse_unfit(name, tensors[name], (), torch.float64)
    refuse_out_of_range(tensors, width=_width(architecture, net))
    scalars = {name: float(tensors[name]) for name in SCALARS}
    return Core(
        architecture=architecture,
        net=net,
        tap_index=tensors[INDEX],
        tap_mean=tensors[MEAN],
        tap_scale=tensors[SCALE],
        weight=tensors[WEIGHT],
        **scalars,
    )


def load_network(architecture: Architecture, tensors: dict[str, Tensor], *, prefix: str = "") -> Network:
    """Build the network with these weights, in eval mode and without gradients.

    `input.mean` and `input.std` may both be missing, and `num_batches_tracked`, which nothing reads; all else must fit by name, shape
    and type.

    Args:
        prefix: put before a name in an error, so that it is the name in the caller's file.

    Raises:
        CoreMismatch: naming the first tensor that does not fit.
    """
    net = build(architecture, 0)
    own = net.state_dict()
    for name in tensors:
        if name not in own:
            raise CoreMismatch(f"{prefix}{name} is not part of {architecture.name}")
    if ("input.mean" in tensors) != ("input.std" in tensors):
        raise CoreMismatch(f"{prefix}input.mean and {prefix}input.std come together or not at all")
    for name, expected in own.items():
        if name in tensors:
            refuse_unfit(prefix + name, tensors[name], tuple(expected.shape), expected.dtype)
        elif not name.startswith("input.") and not name.endswith("num_batches_tracked"):
            raise CoreMismatch(f"{prefix}{name} is missing")
        if name.endswith(("input.std", "running_var", ".scale")) and name in tensors and not bool((tensors[name] >= 0).all()):
            raise CoreMismatch(f"{prefix}{name} is negative")
    net.load_state_dict(own | tensors)
    net.requires_grad_(False).eval()
    return net


def refuse_unfit(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Raise `CoreMismatch` unless the tensor has this shape, this type and finite values."""
    if tuple(tensor.shape) != shape:
        raise CoreMismatch(f"{name} has shape {tuple(tensor.shape)}, not {shape}")
    if tensor.dtype != dtype:
        raise CoreMismatch(f"{name} is {tensor.dtype}, not {dtype}")
    if not bool(torch.isfinite(tensor).all()):
        raise CoreMismatch(f"{name} holds a value that is not finite")


def refuse_out_of_range(tensors: dict[str, Tensor], *, width: int) -> None:
    """Raise `CoreMismatch` for values that no core has: they would make features infinite, or a row's bits depend on its company."""
    index = tensors[INDEX]
    if len(index) and not (int(index.min()) >= 0 and int(index.max()) < width and bool((index.diff() > 0).all())):
        raise CoreMismatch(f"{INDEX} is not an ascending choice of the {width} taps")
    if not bool((tensors[SCALE] > 0).all()):
        raise CoreMismatch(f"{SCALE} is not positive")
    if float(tensors["feature_scale"]) != FEATURE_SCALE:
        raise CoreMismatch(f"feature_scale is not {FEATURE_SCALE}")
    for name in ("target_scale", "ridge", "target"):
        if not float(tensors[name]) > 0:
            raise CoreMismatch(f"{name} is not positive")
    if not torch.equal(exactly_summable(tensors[WEIGHT]), tensors[WEIGHT]):
        raise CoreMismatch(f"{WEIGHT} has more digits than sums over {len(index) + 1} features keep")
    if not log2(float(tensors["target_scale"])).is_integer():
        raise CoreMismatch("target_scale is not a power of two")


def _width(architecture: Architecture, net: Network | None) -> int:
    if net is not None:
        return tap_width(net, pooled_side(net))
    return int(torch.Size(architecture.input_shape).numel())
