"""Activations of a frozen network as 16-bit integers, the same for the same sample wherever it stands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.linear.statistics import LARGEST
from models.nets import Network
from models.progress import Progress, Stop, check, never, silent
from models.train import threads

BATCH = 256
"""Every forward pass has this many rows, the last one padded with zeros: kernels choose their order of sums by the shape."""

FEATURE_SCALE = 2.0**-12
"""s: standardised features are cut at +-8, and 8/32768 is a power of two, so that the constant feature is 4,096 exactly."""

WIDEST = 4096  # features above which each tap is pooled to the next smaller grid
GRIDS = (4, 2, 1)  # pixels a side after pooling


class NotFinite(ValueError):
    """A value is NaN or infinite, in the row that the message names."""


@torch.inference_mode()
def activations(net: Network, inputs: Tensor, *, progress: Progress = silent, stop: Stop = never) -> tuple[Tensor, Tensor]:
    """Run the network over the rows in fixed batches, on one thread.

    A row's result has the same bits at every place in the batch and beside any other rows.

    Args:
        net: in eval mode.
        inputs: `[n, C, H, W]` uint8 or `[n, k]` float32.

    Returns:
        Pooled taps, concatenated, `[n, t]` float32; and logits `[n, classes]` float32.

    Raises:
        NotFinite: naming the first row with a NaN or an infinity in its inputs, taps or logits.
    """
    if net.training:
        raise ValueError("the network must be in eval mode: batch normalisation would mix the rows of a batch")
    grid = pooled_side(net)
    taps, logits = [], []
    with threads(1):
        for start in range(0, len(inputs), BATCH):
            check(stop)
            rows = inputs[start : start + BATCH]
            refuse_not_finite(rows, first=start)
            padded = torch.cat([rows, rows.new_zeros(BATCH - len(rows), *rows.shape[1:])])
            with tapped(net) as found:
                out = net(padded)
            pooled = torch.cat([pool(found[name], grid) for name in net.taps], dim=1)
            taps.append(pooled[: len(rows)].clone())
            logits.append(out[: len(rows)].clone())
            refuse_not_finite(taps[-1], first=start)
            refuse_not_finite(logits[-1], first=start)
            progress("encode", min(1.0, (start + BATCH) / len(inputs)))
    if not taps:
        return torch.empty(0, tap_width(net, grid)), torch.empty(0, net.architecture.classes)
    return torch.cat(taps), torch.cat(logits)


@contextmanager
def tapped(net: Network) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of the net's taps, by name, during the forward passes within the block."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            found[name] = output

        return net.get_submodule(name).register_forward_hook(hook)

    handles = [keep(name) for name in net.taps]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def pool(tap: Tensor, grid: int) -> Tensor:
    """Average a tap over a grid of at most `grid` x `grid` cells, and flatten it.

    Args:
        tap: `[b, c, h, w]`, or `[b, c]`, which stays.
    """
    if tap.dim() == 4:
        size = (min(grid, tap.shape[2]), min(grid, tap.shape[3]))
        tap = tap if tap.shape[2:] == size else functional.adaptive_avg_pool2d(tap, size)
    return tap.flatten(1)


def pooled_side(net: Network) -> int:
    """Return the architecture's grid; else the largest of 4, 2 and 1 cells a side with which the features number at most 4,096, or 1."""
    if net.architecture.grid is not None:
        return net.architecture.grid
    return next((grid for grid in GRIDS if tap_width(net, grid) + 1 <= WIDEST), GRIDS[-1])


@torch.inference_mode()
def tap_width(net: Network, grid: int) -> int:
    """Return how many numbers the pooled taps of one sample are."""
    shape = net.architecture.input_shape
    sample = torch.zeros(1, *shape, dtype=torch.uint8 if len(shape) == 3 else torch.float32)
    with tapped(net) as found:
        net(sample)
    return sum(prod(pool(found[name], grid).shape[1:]) for name in net.taps)


def refuse_not_finite(values: Tensor, *, first: int) -> None:
    """Raise `NotFinite` for the first row of `[b, ...]` that holds a NaN or an infinity, counting from `first`."""
    if not values.is_floating_point():
        return
    bad = ~torch.isfinite(values).flatten(1).all(dim=1)
    if bool(bad.any()):
        raise NotFinite(f"row {first + int(bad.nonzero()[0])} holds a value that is not finite")


def standardisation(taps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find which taps vary over the core rows, their means and their standard deviations.

    A tap whose deviation is below a millionth of its own size is a constant with rounding errors, and is dropped.

    Args:
        taps: `[n, t]` float32, core rows.

    Returns:
        index `[d-1]` int64 into the taps, mean `[d-1]` and scale `[d-1]` float64.
    """
    mean, spread = torch.empty(taps.shape[1], dtype=torch.float64), torch.empty(taps.shape[1], dtype=torch.float64)
    for start in range(0, taps.shape[1], BATCH):  # by columns: the taps of a large core need not exist twice in float64
        columns = taps[:, start : start + BATCH].double()
        mean[start : start + BATCH] = columns.mean(dim=0)
        spread[start : start + BATCH] = columns.std(dim=0, unbiased=False)
    index = (spread > 1e-6 * mean.abs()).nonzero().flatten()
    return index, mean[index], spread[index]


def quantise(taps: Tensor, *, index: Tensor, mean: Tensor, scale: Tensor) -> tuple[Tensor, int]:
    """Standardise the taps in float64, append the constant 1, and round to integers.

    q = clip(rint(phi / s), -32767, 32767) with phi = (tap[index] - mean) / scale.

    Args:
        taps: `[n, t]` float32, finite.

    Returns:
        `[n, d]` int16, the last column 4,096 throughout; and how many values were cut.
    """
    blocks, saturated = [], 0
    for start in range(0, len(taps), BATCH):
        phi = (taps[start : start + BATCH, index].double() - mean) / scale
        cut, count = to_int16(phi / FEATURE_SCALE)
        constant = torch.full((len(cut), 1), int(1 / FEATURE_SCALE), dtype=torch.int16)
        blocks.append(torch.cat([cut, constant], dim=1))
        saturated += count
    return (torch.cat(blocks) if blocks else torch.empty(0, len(index) + 1, dtype=torch.int16)), saturated


def to_int16(values: Tensor) -> tuple[Tensor, int]:
    """Round to the nearest integer (ties to even), cut to +-32767, and count what was cut."""
    rounded = values.round()
    saturated = int((rounded.abs() > LARGEST).sum())
    return rounded.clamp(-LARGEST, LARGEST).to(torch.int16), saturated
