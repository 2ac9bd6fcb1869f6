"""The pieces that every network shares: its normalising first module, its activation, its form as a network with taps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.nets.architecture import SMALLEST_IMAGE, Architecture
from models.nets.bottleneck import LEAK, Links

ADAPTER = "adapter"


class Normalise(nn.Module):
    """Centre and scale raw inputs: uint8 pixels as fractions of 255, by channel; float32 features, one by one."""

    mean: Tensor
    std: Tensor

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(input_shape[0]))
        self.register_buffer("std", torch.ones(input_shape[0]))

    def forward(self, inputs: Tensor) -> Tensor:
        axes = (1, -1) + (1,) * (inputs.dim() - 2)
        return (fractions(inputs) - self.mean.view(axes)) / self.std.view(axes)

    @torch.no_grad()
    def fit(self, inputs: Tensor) -> None:
        """Take mean and standard deviation (1 where it is 0) from the rows given, which must be core rows.

        Args:
            inputs: `[n, C, H, W]` uint8 or `[n, k]` float32.
        """
        axes = [axis for axis in range(inputs.dim()) if axis != 1]
        total, squares = torch.zeros(inputs.shape[1], dtype=torch.float64), torch.zeros(inputs.shape[1], dtype=torch.float64)
        for start in range(0, len(inputs), 1024):
            values = fractions(inputs[start : start + 1024]).double()
            total, squares = total + values.sum(axes), squares + values.square().sum(axes)
        count = inputs.numel() // inputs.shape[1]
        mean = total / count
        std = (squares / count - mean.square()).clamp_min(0).sqrt()
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 1e-6 * (1 + mean.abs()), std, torch.ones_like(std)))


def fractions(inputs: Tensor) -> Tensor:
    """Return uint8 pixels as float32 in [0, 1], features as they are."""
    return inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs


class Network(nn.Module):
    """A chain of named parts from raw inputs to logits `[n, classes]`, the first of them `input`, with named taps and a named bottleneck.

    Subclasses register their layers and name the chain in `parts`. With an adapter in the architecture, the part `adapter` follows
    the bottleneck, and all that is read from the network has passed it.
    """

    parts: tuple[str, ...]
    taps: tuple[str, ...]
    bottleneck: str

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.input = Normalise(architecture.input_shape)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.run(inputs, self.parts)

    def run(self, x: Tensor, parts: tuple[str, ...]) -> Tensor:
        """Pass `x` through some consecutive parts of the chain.

        Raises:
            ValueError: if a stochastic adapter is among the parts and they do not begin at the raw inputs, which its draw depends on.
        """
        adapter = self.architecture.adapter
        drawn = None
        if adapter is not None and adapter.is_stochastic and ADAPTER in parts and parts[0] == "input":
            drawn = self.links.draw(x)
        for name in parts:
            x = self.links(x, drawn) if name == ADAPTER else self.get_submodule(name)(x)
        return x

    @property
    def links(self) -> Links:
        """The adapter's module."""
        found = self.get_submodule(ADAPTER)
        assert isinstance(found, Links)
        return found

    @property
    def before(self) -> tuple[str, ...]:
        """The parts up to the bottleneck, the bottleneck included. Only of a network with an adapter."""
        return self.parts[: self.parts.index(ADAPTER)]

    @property
    def after(self) -> tuple[str, ...]:
        """The parts that see the adapter's output. Only of a network with an adapter."""
        return self.parts[self.parts.index(ADAPTER) + 1 :]

    def name_layers(self, *, taps: tuple[str, ...], bottleneck: str) -> None:
        """Settle taps and bottleneck, once all layers exist: the architecture's where it names them, else these; then the adapter.

        Raises:
            ValueError: if a name is no layer of this network, or does not go with an adapter.
        """
        self.bottleneck = self.architecture.bottleneck or bottleneck
        if self.architecture.adapter is not None:
            self._insert()
            taps = (ADAPTER,)
        self.taps = self.architecture.taps or taps
        layers = [name for name, _ in self.named_modules() if name]
        for name in (*self.taps, self.bottleneck):
            if name not in layers:
                raise ValueError(f"{self.architecture.name} has no layer {name!r}; it has {', '.join(layers)}")
        if self.architecture.adapter is not None:
            allowed = (ADAPTER, *self.after)
            for name in self.taps:
                if not any(name == part or (part != ADAPTER and name.startswith(f"{part}.")) for part in allowed):
                    raise ValueError(f"the tap {name!r} would pass the adapter by; taps lie within {', '.join(allowed)}")

    def _insert(self) -> None:
        """Put the adapter into the chain. The layers' first weights are those of the same network without it."""
        assert self.architecture.adapter is not None
        if self.bottleneck not in self.parts:
            raise ValueError(f"an adapter follows a whole part of the network, not {self.bottleneck!r}: use one of {', '.join(self.parts)}")
        place = self.parts.index(self.bottleneck) + 1
        shape = self.architecture.input_shape
        sample = torch.zeros(1, *shape, dtype=torch.uint8 if len(shape) == 3 else torch.float32)
        with torch.no_grad():
            self.eval()
            values = self.run(sample, self.parts[:place])
            self.train()
        self.add_module(ADAPTER, Links(self.architecture.adapter, tuple(values.shape[1:])))
        self.parts = (*self.parts[:place], ADAPTER, *self.parts[place:])


def activation(name: str) -> nn.Module:
    """Return a fresh activation module, never one that works in place: taps read what stands before it."""
    if name == "leaky_relu":
        return nn.LeakyReLU(LEAK)
    return nn.ReLU() if name == "relu" else nn.Tanh()


def image_channels(architecture: Architecture) -> int:
    """Return the number of channels of a network for images.

    Raises:
        ValueError: if the inputs are no images or smaller than 8 x 8.
    """
    if not architecture.is_image:
        raise ValueError(f"{architecture.name} takes images (C, H, W), not features {architecture.input_shape}")
    channels, height, width = architecture.input_shape
    if min(height, width) < SMALLEST_IMAGE:
        raise ValueError(f"{architecture.name} takes images of at least {SMALLEST_IMAGE} x {SMALLEST_IMAGE}, not {height} x {width}")
    return channels


def initialise(net: nn.Module, generator: torch.Generator) -> None:
    """Draw convolution weights (He, fan out) and linear weights (variance 1 / fan in) from one generator; biases start at 0."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, a=LEAK, mode="fan_out", nonlinearity="leaky_relu", generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5, generator=generator)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
