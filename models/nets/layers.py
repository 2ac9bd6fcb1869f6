"""The pieces that every network shares: its normalising first module, its activation, its form as a network with taps."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.nets.architecture import SMALLEST_IMAGE, Architecture

LEAK = 0.01


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


class Dense(nn.Linear):
    """A linear layer in which a row's bits do not depend on its place in the batch.

    The number of inputs is filled up with zeros to a multiple of 16. Otherwise the matrix product of some processors adds up what is
    left over of a vector in another order for the last rows of a batch than for the first.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        missing = -self.in_features % 16
        if not missing:
            return super().forward(inputs)
        return functional.linear(functional.pad(inputs, (0, missing)), functional.pad(self.weight, (0, missing)), self.bias)


class Network(nn.Module):
    """A chain of named parts from raw inputs to logits `[n, classes]`, the first of them `input`, with named taps and a named bottleneck.

    Subclasses register their layers and name the chain in `parts`.
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
        """Pass `x` through some consecutive parts of the chain."""
        for name in parts:
            x = self.get_submodule(name)(x)
        return x

    def name_layers(self, *, taps: tuple[str, ...], bottleneck: str) -> None:
        """Settle taps and bottleneck, once all layers exist: the architecture's where it names them, else these.

        Raises:
            ValueError: if a name is no layer of this network.
        """
        self.taps = self.architecture.taps or taps
        self.bottleneck = self.architecture.bottleneck or bottleneck
        layers = [name for name, _ in self.named_modules() if name]
        for name in (*self.taps, self.bottleneck):
            if name not in layers:
                raise ValueError(f"{self.architecture.name} has no layer {name!r}; it has {', '.join(layers)}")


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
