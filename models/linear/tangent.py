"""A network's first-order expansion in some of its parameters: J v, J^T u and rows of J by automatic differentiation."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, jvp, vjp, vmap

from models.linear.features import BATCH, refuse_not_finite
from models.nets import Network
from models.progress import Progress, Stop, check, never, silent

STEP = 128
"""Rows a product: on a processor the activations of so many small images stay in the cache."""


@dataclass(frozen=True)
class Tangent:
    """net(x; w0 + w) ~ net(x) + J(x) w, with J the derivative of the logits by the linearised parameters at their trained values."""

    net: Network
    """In eval mode and without gradients. Batch normalisation is a fixed affine map: no row sees another."""

    names: tuple[str, ...]
    """The linearised parameters, in the order of `named_parameters`; a vector w is their values one after another."""

    front: tuple[str, ...]
    """Parts of the network before the first linearised one; what they make of a row never changes."""

    back: tuple[str, ...]
    """The other parts."""

    @property
    def sizes(self) -> list[int]:
        """Number of values of each linearised parameter."""
        return [self.net.get_parameter(name).numel() for name in self.names]

    @property
    def p(self) -> int:
        """Length of a vector over all linearised parameters."""
        return sum(self.sizes)

    @property
    def classes(self) -> int:
        """C."""
        return self.net.architecture.classes

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type that products are computed in."""
        return self.net.get_parameter(self.names[0]).dtype

    @property
    def device(self) -> torch.device:
        """Where products are computed."""
        return self.net.get_parameter(self.names[0]).device

    def double(self) -> Tangent:
        """Return the same expansion computed in float64, from the same float32 parameters."""
        return Tangent(copy.deepcopy(self.net).double(), self.names, self.front, self.back)

    def on(self, device: torch.device) -> Tangent:
        """Return the same expansion computed elsewhere. `forward`, `backward` and `outputs` take from the processor and give to it."""
        return self if device == self.device else Tangent(copy.deepcopy(self.net).to(device), self.names, self.front, self.back)

    def quick(self, device: torch.device) -> Tangent:
        """Return the same expansion for many products in its own type, computed there.

        On a processor, networks whose convolutions see neighbours keep the channels of a pixel side by side: H v of the convnet takes .81
        of the time, of resnet20 .86. Convolutions of 1x1 alone, as in MobileNetV2's last stage, would take 1.16 of it.
        """
        convolutions = [layer for part in self.back for layer in self.net.get_submodule(part).modules() if isinstance(layer, nn.Conv2d)]
        if device.type != "cpu" or all(layer.kernel_size == (1, 1) for layer in convolutions):
            return self.on(device)
        net = copy.deepcopy(self.net).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return Tangent(net, self.names, self.front, self.back)

    def named(self, vector: Tensor) -> dict[str, Tensor]:
        """Cut a vector `[p]` into one tensor a parameter."""
        pieces = torch.split(vector, self.sizes)
        return {name: piece.view(self.net.get_parameter(name).shape) for name, piece in zip(self.names, pieces, strict=True)}

    def vector(self, named: dict[str, Tensor]) -> Tensor:
        """Join one tensor a parameter into a vector `[p]`."""
        return torch.cat([named[name].reshape(-1) for name in self.names])


def linearise(net: Network, layers: tuple[str, ...] | None) -> Tangent:
    """Expand a network in the parameters of these layers; None takes all, or all that see the adapter's output where there is one.

    Args:
        net: in eval mode.
        layers: names from `named_modules`.

    Raises:
        ValueError: naming a layer that the network lacks, that has no parameters, or that would pass the adapter by.
    """
    if net.training:
        raise ValueError("the network must be in eval mode: batch normalisation would mix the rows of a batch")
    every = [name for name, _ in net.named_parameters()]
    for layer in layers or ():
        if not any(name.startswith(f"{layer}.") for name in every):
            raise ValueError(f"{net.architecture.name} has no layer {layer!r} with parameters")
    chosen = [name for name in every if layers is None or any(name.startswith(f"{layer}.") for layer in layers)]
    if net.architecture.adapter is not None:
        behind = [name for name in chosen if any(name.startswith(f"{part}.") for part in net.after)]
        if (layers is not None and behind != chosen) or not behind:
            raise ValueError(f"only layers after the adapter can be linearised: {', '.join(net.after) or 'there are none'}")
        chosen = behind
    first = next(i for i, part in enumerate(net.parts) if any(name.startswith(f"{part}.") for name in chosen))
    return Tangent(net, tuple(chosen), net.parts[:first], net.parts[first:])


@torch.no_grad()
def prepare(tangent: Tangent, inputs: Tensor, *, progress: Progress = silent, stop: Stop = never) -> Tensor:
    """Run rows through the parts that are not linearised, once, in fixed batches.

    Args:
        tangent: in float32.
        inputs: `[n, C, H, W]` uint8 or `[n, k]` float32.

    Returns:
        `[n, ...]` float32: all that the products need of the rows.

    Raises:
        NotFinite: naming the first row with a NaN or an infinity.
    """
    found = []
    for start in range(0, len(inputs), BATCH):
        check(stop)
        rows = inputs[start : start + BATCH]
        refuse_not_finite(rows, first=start)
        padded = torch.cat([rows, rows.new_zeros(BATCH - len(rows), *rows.shape[1:])])
        found.append(tangent.net.run(padded, tangent.front)[: len(rows)].clone())
        refuse_not_finite(found[-1], first=start)
        progress("encode", min(1.0, (start + BATCH) / len(inputs)))
    return torch.cat(found) if found else tangent.net.run(inputs.new_zeros(1, *inputs.shape[1:]), tangent.front)[:0]


@torch.no_grad()
def outputs(tangent: Tangent, rows: Tensor, *, stop: Stop = never) -> Tensor:
    """Return the network's own logits `[n, C]` float64 of prepared rows."""
    found = [home(tangent.net.run(part, tangent.back)) for part in batches(tangent, rows, stop)]
    return torch.cat(found) if found else torch.zeros(0, tangent.classes, dtype=torch.float64)


def forward(tangent: Tangent, rows: Tensor, vector: Tensor, *, stop: Stop = never) -> Tensor:
    """Return J v for each prepared row, `[n, C]` float64.

    Args:
        rows: `[n, ...]` from `prepare`.
        vector: v `[p]`, of any floating-point type.
    """
    moved = away(tangent, vector)
    found = [home(pushed(tangent, part, moved)) for part in batches(tangent, rows, stop)]
    return torch.cat(found) if found else torch.zeros(0, tangent.classes, dtype=torch.float64)


def backward(tangent: Tangent, rows: Tensor, cotangent: Tensor, *, stop: Stop = never) -> Tensor:
    """Return sum_i J_i^T u_i over prepared rows, `[p]`, summed over batches in float64 in their order.

    Args:
        rows: `[n, ...]`.
        cotangent: u `[n, C]`.
    """
    total = torch.zeros(tangent.p, dtype=torch.float64, device=tangent.device)
    for number, part in enumerate(batches(tangent, rows, stop)):
        total += pulled(tangent, part, cotangent[number * STEP : (number + 1) * STEP])
    return home(total)


def jacobian(tangent: Tangent, rows: Tensor) -> Tensor:
    """Return the rows of J, `[b * C, p]`, a row's classes one after another. For few rows: it is C p values a row."""
    values = {name: tangent.net.get_parameter(name) for name in tangent.names}

    def one(named: dict[str, Tensor], row: Tensor) -> Tensor:
        out: Tensor = _logits(tangent, named, row[None])[0]
        return out

    found = vmap(jacrev(one), in_dims=(None, 0))(values, away(tangent, rows))
    return torch.cat([found[name].reshape(len(rows) * tangent.classes, -1) for name in tangent.names], dim=1)


def batches(tangent: Tangent, rows: Tensor, stop: Stop) -> Iterator[Tensor]:
    """Yield prepared rows, `STEP` at a time, where and in the type that products are computed."""
    for start in range(0, len(rows), STEP):
        check(stop)
        yield away(tangent, rows[start : start + STEP])


def away(tangent: Tangent, values: Tensor) -> Tensor:
    """Return the values where and in the type that products are computed."""
    return values.to(device=tangent.device, dtype=tangent.dtype)


def home(values: Tensor) -> Tensor:
    """Return the values on the processor, in float64."""
    return values.double().cpu()


def pushed(tangent: Tangent, part: Tensor, vector: Tensor) -> Tensor:
    """Return J v `[b, C]` of one batch, left where it is computed."""
    values = {name: tangent.net.get_parameter(name) for name in tangent.names}
    moved: Tensor = jvp(lambda named: _logits(tangent, named, part), (values,), (tangent.named(away(tangent, vector)),))[1]
    return moved


def pulled(tangent: Tangent, part: Tensor, cotangent: Tensor) -> Tensor:
    """Return J^T u `[p]` of one batch, left where it is computed."""
    values = {name: tangent.net.get_parameter(name) for name in tangent.names}
    pull = vjp(lambda named: _logits(tangent, named, part), values)[1]
    return tangent.vector(pull(away(tangent, cotangent))[0])


def normal(tangent: Tangent, part: Tensor, vector: Tensor, missed: Tensor | None = None, *, scale: float = 0.0) -> Tensor:
    """Return J^T (J v + c net - m) `[p]` of one batch, left where it is computed: all from one pass of the network itself.

    Args:
        missed: m `[b, C]`; None is 0, and c too.
        scale: c.
    """
    values, direction = {name: tangent.net.get_parameter(name) for name in tangent.names}, tangent.named(away(tangent, vector))

    def both(named: dict[str, Tensor]) -> Any:
        return jvp(lambda own: _logits(tangent, own, part), (named,), (direction,))

    shared: Any = vjp(both, values, has_aux=True)
    out, pull, moved = shared
    return tangent.vector(pull(moved if missed is None else moved + scale * out - away(tangent, missed))[0])


def _logits(tangent: Tangent, named: dict[str, Tensor], part: Tensor) -> Tensor:
    out: Tensor = functional_call(_Back(tangent), {f"net.{name}": value for name, value in named.items()}, (part,))
    return out


class _Back(nn.Module):
    """The network from its first linearised part on, as `functional_call` wants it."""

    def __init__(self, tangent: Tangent) -> None:
        super().__init__()
        self.net, self.parts = tangent.net, tangent.back

    def forward(self, x: Tensor) -> Tensor:
        return self.net.run(x, self.parts)
