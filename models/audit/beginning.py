"""Where a decoder's training begins: near the answer, or where a decoder that was told nothing has arrived."""

from __future__ import annotations

from math import log

import torch
from torch import Tensor

from models.audit import mixture
from models.audit.causal import Pixels
from models.audit.reading import Reading

SPREAD = -2.0
"""Log scale of a bump at first."""

SOME = 256
"""Images that first values are taken from."""

NARROW = mixture.STEP / 4
"""The least scale of a bump at first. Where the guess is exact, training throws narrower ones off it and does not always find back: of
three decoders of 8 x 8 digits told the digit as a map, that began at the sharpest scale, two ended at .27 and .19 bits a dimension. From
here all three end below .002."""

FAINT = -1.0
"""Log weight, before they are normalised, of bumps that join those of a trained decoder."""


def following(components: int) -> int:
    """How many of so many bumps follow the linear guess at first."""
    return max(1, components // 4)


def near(net: Pixels, images: Tensor, h: Tensor | None, reading: Reading | None) -> None:
    """Begin near the answer: bumps spread over the values that occur; where there is a linear guess, a quarter of them follow it.

    Args:
        images: `[n, C, H, W]` uint8, to train on.
        h: `[n, ...]` what is known of them.
    """
    channels, components = net.form.shape[0], net.form.components
    seen = images[:SOME].float() * mixture.STEP - 1
    guided = following(components) if h is not None else 0
    apart = components - guided
    middles = torch.quantile(seen.flatten()[:100_000], (torch.arange(apart) + 0.5) / apart)
    with torch.no_grad():
        split = torch.zeros(components, mixture.wanted(channels, 1))
        split[guided:, 1 : 1 + channels] = middles[:, None]
        split[:, 1 + channels : 1 + 2 * channels] = SPREAD / mixture.HASTE
        net.head.weight.mul_(0.1)
        _bias(net).copy_(split.flatten())
        if h is not None and reading is not None:
            _follow(net, guided, seen, reading.guess(h[:SOME]))


def after(net: Pixels, untold: Pixels, images: Tensor, h: Tensor | None, reading: Reading | None) -> None:
    """Begin where a decoder that is told nothing has arrived; what is known has no say yet, but for faint bumps that follow the guess.

    Args:
        net: of the form `further` gives.
        untold: trained.
        images, h: as in `near`.
    """
    added = net.form.components - untold.form.components
    numbers = added * mixture.wanted(net.form.shape[0], 1)
    own = net.state_dict()
    with torch.no_grad():
        for name, learnt in untold.state_dict().items():
            if own[name].shape == learnt.shape:
                own[name].copy_(learnt)
            else:  # the head's rows for the added bumps come first
                own[name].zero_()
                own[name][numbers:].copy_(learnt)
        if h is not None and reading is not None:
            for silent in (net.picture, net.vector) if h.dim() == 2 else (net.picture,):
                for parameter in silent.parameters():
                    parameter.zero_()
            _bias(net).reshape(net.form.components, -1)[:added, 0] = FAINT
            _follow(net, added, images[:SOME].float() * mixture.STEP - 1, reading.guess(h[:SOME]))


def _follow(net: Pixels, count: int, seen: Tensor, guess: Tensor) -> None:
    """Let the first bumps have the guess as their means, half as wide as its error, or as `NARROW` allows."""
    channels, numbers = net.form.shape[0], mixture.wanted(net.form.shape[0], 1)
    direct = torch.zeros(net.form.components, numbers, channels)
    for channel in range(channels):
        direct[:count, 1 + channel, channel] = 1
    error = float((seen - guess).pow(2).mean().sqrt())
    width = log(max(error / 2, NARROW)) / mixture.HASTE
    _bias(net).reshape(net.form.components, numbers)[:count, 1 + channels : 1 + 2 * channels] = width
    net.direct.weight.copy_(direct.reshape(-1, channels, 1, 1))
    assert net.direct.bias is not None
    net.direct.bias.zero_()


def _bias(net: Pixels) -> Tensor:
    assert net.head.bias is not None
    return net.head.bias
