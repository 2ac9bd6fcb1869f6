"""The adapter as a module of the network, right after its bottleneck."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn

from models.nets import draws
from models.nets.adapter import WIDEST, Adapter
from models.nets.dense_layer import Dense, padded

LEAK = 0.01
STEEPNESS = 6.0
"""theta = sigmoid(6 z). Source: Koeppel et al., AAAI 2023, section 3. https://arxiv.org/abs/2208.02656"""

THETA = 1e-4
"""Theta is cut to [1e-4, 1 - 1e-4] in training, serving and audit alike: no bit is certain, so every divergence is finite."""


class Affine(nn.Module):
    """y = W x + b; the identity until it is set."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return padded(x, self.weight, self.bias)


class Standardised(nn.Module):
    """Values less their mean, over their standard deviation; as they are until it is fitted."""

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Take mean and standard deviation (1 where it is 0) from `[n, d]` values, which must be core rows."""
        mean, scale = x.double().mean(dim=0), x.double().std(dim=0, unbiased=False)
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(scale > 1e-6 * (1 + mean.abs()), scale, torch.ones_like(scale)))

    def standardised(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.scale


class Learned(Standardised):
    """y = skip * x + MLP((x - mean) / scale)."""

    def __init__(self, width: int, hidden: tuple[int, ...], *, code: int, skip: bool) -> None:
        super().__init__(width)
        self.skip = skip
        layers: list[nn.Module] = []
        before = width
        for wide in hidden:
            layers += [Dense(before, wide), nn.LeakyReLU(LEAK)]
            before = wide
        if code:
            layers.append(Dense(before, code))
            before = code
        self.layers = nn.Sequential(*layers, Dense(before, width))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(self.standardised(x))
        return x + out if self.skip else out


class Quantized(Standardised):
    """z = E (x - mean) / scale + e, theta = sigmoid(6 z), T ~ Bernoulli(theta), y = D T + c."""

    key: Tensor

    def __init__(self, width: int, bits: int) -> None:
        super().__init__(width)
        self.encode, self.decode = Dense(width, bits), Dense(bits, width)
        self.register_buffer("key", torch.zeros(draws.KEY_BYTES, dtype=torch.uint8))

    def theta(self, x: Tensor) -> Tensor:
        """Return P(T = 1) `[n, bits]` for flat bottleneck values."""
        return torch.sigmoid(STEEPNESS * self.encode(self.standardised(x))).clamp(THETA, 1 - THETA)

    def draw(self, inputs: Tensor, *, link: int) -> Tensor:
        return draws.uniforms(secret(self.key), inputs, self.encode.out_features, link=link)

    def forward(self, x: Tensor, drawn: Tensor) -> Tensor:
        theta = self.theta(x)
        out: Tensor = self.decode((drawn.to(x.device) < theta).to(x.dtype))
        return out


class Noise(nn.Module):
    """y = x + sigma eps."""

    key: Tensor

    def __init__(self, width: int, sigma: float) -> None:
        super().__init__()
        self.width, self.sigma = width, sigma
        self.register_buffer("key", torch.zeros(draws.KEY_BYTES, dtype=torch.uint8))

    def draw(self, inputs: Tensor, *, link: int) -> Tensor:
        return draws.normals(secret(self.key), inputs, self.width, link=link)

    def forward(self, x: Tensor, drawn: Tensor) -> Tensor:
        return x + (self.sigma * drawn).to(x)


def secret(key: Tensor) -> bytes:
    """Return a link's key.

    Raises:
        ValueError: if it has not been set: a key that everybody knows hides nothing.
    """
    found = bytes(key.tolist())
    if not any(found):
        raise ValueError("the stochastic adapter has no key yet: set a secret one before anything is served")
    return found


class Links(nn.Module):
    """An adapter of one link or several, numbered `0`, `1`, ..., on flattened values."""

    def __init__(self, adapter: Adapter, shape: tuple[int, ...]) -> None:
        super().__init__()
        width = prod(shape)
        if width > WIDEST:
            raise ValueError(f"the bottleneck has {width:,} values, an adapter takes at most {WIDEST:,}")
        self.width = width
        for place, link in enumerate(adapter.parts):
            self.add_module(str(place), made(link, width))

    def __len__(self) -> int:
        return len(self._modules)

    def draw(self, inputs: Tensor, *, last: int | None = None) -> tuple[Tensor | None, ...]:
        """Draw what each stochastic link up to, but without, `last` needs of these raw inputs."""
        links = list(enumerate(self.children()))[:last]
        return tuple(link.draw(inputs, link=place) if isinstance(link, Quantized | Noise) else None for place, link in links)

    def forward(self, x: Tensor, drawn: tuple[Tensor | None, ...] | None = None, *, first: int = 0, last: int | None = None) -> Tensor:
        """Map the bottleneck's values through the links from `first` up to, but without, `last`."""
        flat = x.flatten(1)
        for place, link in list(enumerate(self.children()))[first:last]:
            if isinstance(link, Quantized | Noise):
                if drawn is None or drawn[place] is None:
                    raise ValueError("a stochastic adapter needs the raw inputs: run the network from its first part")
                flat = link(flat, drawn[place])
            else:
                flat = link(flat)
        return flat.view_as(x)


def made(link: Adapter, width: int) -> nn.Module:
    """Make the module of one link."""
    if link.kind == "affine":
        return Affine(width)
    if link.kind == "mlp":
        return Learned(width, link.hidden, code=link.code, skip=link.skip)
    if link.kind == "quantized":
        return Quantized(width, link.bits)
    if link.kind == "noise":
        return Noise(width, link.sigma)
    return nn.Identity()
