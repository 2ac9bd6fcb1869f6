"""The discretised logistic mixture: a probability for each of the 256 values of a pixel, from a few smooth bumps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

STEP = 2.0 / 255.0
"""Distance of two neighbouring values, on the scale of -1 to 1."""

SHARPEST = -9.0
"""The least log scale. The paper's -7 leaves .04 bits a value even where the value is known; this leaves less than 1e-6."""

HASTE = 4.0
"""Log scales are this many times the network's number: what is sharp in the images has to be e^7 sharper than what training begins with."""

STEEPEST = 40.0  # exponents are cut here: float32 has no more to say


def wanted(channels: int, components: int) -> int:
    """How many numbers a pixel's mixture takes: a weight, and for each channel a mean, a scale and its pull by the channels before."""
    return components * (1 + 2 * channels + channels * (channels - 1) // 2)


def log_probability(parameters: Tensor, pixels: Tensor) -> Tensor:
    """Return the log of each pixel's probability, all channels of it together.

    p(x) = sum_k pi_k prod_c [ F((x_c + 1/2 step - m_kc) / s_kc) - F((x_c - 1/2 step - m_kc) / s_kc) ], F the logistic function; at 0
    the lower end is -infinity and at 255 the upper end +infinity, so the 256 probabilities sum to 1. The mean of a channel moves
    linearly with the true values of the channels before it.

    With F(a) - F(b) = F(a) F(-b) (1 - e^(b-a)) the logarithm needs no approximation in the tails, where the paper's code has one.

    Args:
        parameters: `[n, wanted(C, K), H, W]`.
        pixels: `[n, C, H, W]` in -1 to 1, on the grid of 256 values.

    Returns:
        `[n, H, W]` nats, at most 0.

    Source: Salimans et al., PixelCNN++, ICLR 2017, sections 2.1 and 2.2. https://arxiv.org/abs/1701.05517
    """
    weights, means, scales = unpacked(parameters, pixels)
    x = pixels[:, None]  # [n, 1, C, H, W]
    sharpness = torch.exp(-scales)
    upper, lower = (x - means + STEP / 2) * sharpness, (x - means - STEP / 2) * sharpness
    inside = functional.logsigmoid(upper) + functional.logsigmoid(-lower) + torch.log(-torch.expm1(-STEP * sharpness))
    first, last = x < -1 + STEP / 2, x > 1 - STEP / 2
    each = torch.where(first, functional.logsigmoid(upper), torch.where(last, functional.logsigmoid(-lower), inside))
    return torch.logsumexp(weights + each.sum(dim=2), dim=1)


def unpacked(parameters: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split a network's answer into log weights `[n, K, H, W]`, means and log scales `[n, K, C, H, W]`.

    Args:
        pixels: `[n, C, H, W]`; channel c's means depend on the channels before c alone.
    """
    n, channels, height, width = pixels.shape
    pairs = channels * (channels - 1) // 2
    components = parameters.shape[1] // (1 + 2 * channels + pairs)
    split = parameters.reshape(n, components, -1, height, width)
    weights = functional.log_softmax(split[:, :, 0], dim=1)
    means, scales = split[:, :, 1 : 1 + channels], HASTE * split[:, :, 1 + channels : 1 + 2 * channels]
    slopes, shifted = torch.tanh(split[:, :, 1 + 2 * channels :]), []
    for channel in range(channels):
        begin = channel * (channel - 1) // 2
        mean = means[:, :, channel]
        for before in range(channel):
            mean = mean + slopes[:, :, begin + before] * pixels[:, None, before]
        shifted.append(mean)
    return weights, torch.stack(shifted, dim=2), scales.clamp(min=SHARPEST, max=STEEPEST)


def draw(parameters: Tensor, pixels: Tensor, *, temperature: float, generator: torch.Generator) -> Tensor:
    """Draw one pixel from each mixture, channel after channel.

    Args:
        parameters: `[n, wanted(C, K)]`.
        pixels: `[n, C]`: overwritten channel by channel, since the later ones depend on the earlier.
        temperature: of the logistic's spread, 0 (its middle) to 1 (the distribution itself).

    Returns:
        `[n, C]` in -1 to 1, on the grid.
    """
    channels, grid = pixels.shape[1], pixels.clone()
    device = parameters.device
    n, numbers = parameters.shape
    components = numbers // wanted(channels, 1)
    weights = functional.log_softmax(parameters.reshape(n, components, -1)[:, :, 0], dim=1).exp()
    chosen = torch.multinomial(weights.cpu(), 1, generator=generator).to(device)[:, 0]
    rows = torch.arange(n, device=device)
    for channel in range(channels):
        _, means, scales = unpacked(parameters[:, :, None, None], grid[:, :, None, None])
        mean, scale = means[rows, chosen, channel, 0, 0], scales[rows, chosen, channel, 0, 0].exp()
        uniform = torch.rand(n, generator=generator).clamp(1e-5, 1 - 1e-5).to(device)
        value = mean + temperature * scale * (torch.log(uniform) - torch.log1p(-uniform))
        grid[:, channel] = torch.round((value.clamp(-1, 1) + 1) / STEP) * STEP - 1
    return grid
