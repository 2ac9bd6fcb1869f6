"""The decoder's network: what it says of a pixel depends on the pixels before it, in reading order, and on nothing after."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.audit import mixture

CANVAS = 4
"""Channels of the picture that a vector is drawn as, for the network to look at pixel by pixel."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """The network's size."""

    shape: tuple[int, int, int]
    """`[C, H, W]` of an image; C is 1 or 3."""

    known: tuple[int, ...]
    """Shape of the condition h of one image: `[d]`, or a map `[k, a, b]`; `[0]` is none."""

    filters: int = 16
    blocks: int = 1
    """Gated blocks at each resolution, on the way down and again on the way up."""

    levels: int = 1
    """Resolutions, each half of the one before."""

    components: int = 8
    """Bumps of the mixture."""

    def __post_init__(self) -> None:
        if self.shape[0] not in (1, 3) or min(self.shape) < 1:
            raise ValueError(f"a decoder draws [C, H, W] images of 1 or 3 channels, not {list(self.shape)}")
        if len(self.known) not in (1, 3):
            raise ValueError(f"h is a vector [d] or a map [k, a, b] an image, not {list(self.known)}")


@dataclass(frozen=True)
class Told:
    """What is known of images, as the network looks at it."""

    guess: Tensor
    """`[n, C, H, W]`: the linear guess of each."""

    drawn: Tensor
    """`[n, k, H, W]`: the guess, and h as a picture."""

    bias: Tensor | None
    """`[n, 2 filters, 1, 1]`: what a vector h says to every place alike."""


class Down(nn.Module):
    """A convolution over the rows up to this one, three columns wide. Fed with a stream that is one row late, it sees rows before."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, height: int = 2) -> None:
        super().__init__()
        self.height, self.conv = height, nn.Conv2d(inputs, outputs, (height, 3), stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(functional.pad(x, (1, 1, self.height - 1, 0)))
        return out


class DownRight(nn.Module):
    """A convolution over what lies above and to the left, this place included."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, height: int = 2, width: int = 2) -> None:
        super().__init__()
        self.height, self.width, self.conv = height, width, nn.Conv2d(inputs, outputs, (height, width), stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(functional.pad(x, (self.width - 1, 0, self.height - 1, 0)))
        return out


class Up(nn.Module):
    """Twice the resolution: each place of the small map fills the four places that it stood for, all at or after its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels, channels, 2, stride=2)

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out[:, :, : like.shape[2], : like.shape[3]]


class Gated(nn.Module):
    """x + a sigmoid(b): a residual block with a gate, told of h and, where there is one, of another stream."""

    def __init__(self, conv: type[Down] | type[DownRight], filters: int, *, beside: int) -> None:
        super().__init__()
        self.first, self.second = conv(2 * filters, filters), conv(2 * filters, 2 * filters)
        self.beside = nn.Conv2d(2 * beside, filters, 1) if beside else None

    def forward(self, x: Tensor, h: Tensor | None, beside: Tensor | None = None) -> Tensor:
        """
        Args:
            h: `[n, 2 filters, H, W]` or `[n, 2 filters, 1, 1]`, or None.
        """
        inner = self.first(both(x))
        if self.beside is not None:
            assert beside is not None
            inner = inner + self.beside(both(beside))
        gates = self.second(both(inner))
        value, gate = (gates if h is None else gates + h).chunk(2, dim=1)
        gated: Tensor = x + value * torch.sigmoid(gate)
        return gated


def both(x: Tensor) -> Tensor:
    """ELU of x and of -x side by side: nothing of x is lost."""
    return functional.elu(torch.cat([x, -x], dim=1))


class Level(nn.Module):
    """The blocks of one resolution, on the way down or up. Stream u sees the rows above, stream v also the pixels to the left."""

    def __init__(self, form: Form, *, skips: bool) -> None:
        super().__init__()
        f = form.filters
        self.u = nn.ModuleList(Gated(Down, f, beside=f if skips else 0) for _ in range(form.blocks))
        self.v = nn.ModuleList(Gated(DownRight, f, beside=2 * f if skips else f) for _ in range(form.blocks))


class Pixels(nn.Module):
    """PixelCNN++: from an image and h to the mixture of every pixel.

    Two streams run side by side, down through the resolutions and up again with short cuts. h enters every gate, as a vector and as a
    picture. The linear guess of the image from h enters the mixtures themselves, so that a value which h knows need not pass the gates.

    Source: Salimans et al., ICLR 2017, sections 2.3 to 2.5. https://arxiv.org/abs/1701.05517
    """

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form = form
        f, (channels, height, width) = form.filters, form.shape
        self.above = Down(channels + 1, f)
        self.over, self.left = Down(channels + 1, f, height=1), DownRight(channels + 1, f, width=1)
        self.down = nn.ModuleList(Level(form, skips=False) for _ in range(form.levels))
        self.up = nn.ModuleList(Level(form, skips=True) for _ in range(form.levels))
        self.shrink_u = nn.ModuleList(Down(f, f, stride=2) for _ in range(form.levels - 1))
        self.shrink_v = nn.ModuleList(DownRight(f, f, stride=2) for _ in range(form.levels - 1))
        self.grow_u = nn.ModuleList(Up(f) for _ in range(form.levels - 1))
        self.grow_v = nn.ModuleList(Up(f) for _ in range(form.levels - 1))
        numbers = mixture.wanted(channels, form.components)
        self.head = nn.Conv2d(2 * f, numbers, 1)
        self.knows = form.known != (0,)
        if self.knows:
            if len(form.known) == 1:
                self.vector = nn.Linear(form.known[0], 2 * f)
                self.canvas = nn.Linear(form.known[0], CANVAS * height * width)
            self.picture = nn.Conv2d(channels + (CANVAS if len(form.known) == 1 else form.known[0]), 2 * f, 1)
            self.direct = nn.Conv2d(channels, numbers, 1)

    def forward(self, pixels: Tensor, told: Told | None) -> Tensor:
        """
        Args:
            pixels: `[n, C, H, W]` in -1 to 1; or the first rows alone, an even number where there are several resolutions.
            told: what `tell` made of h; None where nothing is known.

        Returns:
            `[n, wanted(C, K), H, W]`: the mixtures, of which those of pixel (i, j) depend on the pixels before it alone.
        """
        told = None if told is None else Told(told.guess[:, :, : pixels.shape[2]], told.drawn[:, :, : pixels.shape[2]], told.bias)
        inked = torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=1)  # ones tell pixels from the border
        u = late(self.above(inked))
        v = late(self.over(inked)) + later(self.left(inked))
        kept: list[tuple[Tensor, Tensor]] = []
        sizes = []
        for level, blocks in enumerate(self.down):
            if level:
                u, v = self.shrink_u[level - 1](u), self.shrink_v[level - 1](v)
            sizes.append(u)
            u, v = self._pass(blocks, u, v, self._gates(told, u), kept, going_up=False)
        for level in reversed(range(self.form.levels)):
            u, v = self._pass(self.up[level], u, v, self._gates(told, u), kept, going_up=True)
            if level:
                u, v = self.grow_u[level - 1](u, sizes[level - 1]), self.grow_v[level - 1](v, sizes[level - 1])
        out: Tensor = self.head(both(v))
        return out if told is None else out + self.direct(told.guess)

    @staticmethod
    def _pass(
        level: nn.Module, u: Tensor, v: Tensor, h: Tensor | None, kept: list[tuple[Tensor, Tensor]], *, going_up: bool
    ) -> tuple[Tensor, Tensor]:
        assert isinstance(level, Level)
        for block_u, block_v in zip(level.u, level.v, strict=True):
            if going_up:
                skip_u, skip_v = kept.pop()
                u = block_u(u, h, skip_u)
                v = block_v(v, h, torch.cat([u, skip_v], dim=1))
            else:
                u = block_u(u, h)
                v = block_v(v, h, u)
                kept.append((u, v))
        return u, v

    def tell(self, h: Tensor, guess: Tensor) -> Told:
        """Prepare what is known of images.

        Args:
            h: `[n, *known]`, standardised.
            guess: `[n, C, H, W]` in -1 to 1: the best linear guess of the image from h.
        """
        _, height, width = self.form.shape
        if h.dim() == 2:
            canvas = self.canvas(h).reshape(len(h), CANVAS, height, width)
            return Told(guess, torch.cat([guess, canvas], dim=1), self.vector(h)[:, :, None, None])
        return Told(guess, torch.cat([guess, resized(h, (height, width))], dim=1), None)

    def _gates(self, told: Told | None, like: Tensor) -> Tensor | None:
        """What the gates of one resolution are told of h."""
        if told is None:
            return None
        said: Tensor = self.picture(resized(told.drawn, (like.shape[2], like.shape[3])))
        return said if told.bias is None else said + told.bias


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    if (x.shape[2], x.shape[3]) == size:
        return x
    return functional.interpolate(x, size=size, mode="nearest")


def late(x: Tensor) -> Tensor:
    """One row down: the first row learns nothing."""
    return functional.pad(x, (0, 0, 1, 0))[:, :, :-1]


def later(x: Tensor) -> Tensor:
    """One column to the right: the first column learns nothing."""
    return functional.pad(x, (1, 0, 0, 0))[:, :, :, :-1]
