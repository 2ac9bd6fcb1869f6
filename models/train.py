"""The one training loop: cross-entropy, one cycle of SGD, and the same bits for the same seed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, cos, pi

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.data import Samples
from models.nets import Architecture, Network
from models.progress import Progress, Stop, check, never, silent

WARM_UP = 0.25  # fraction of the cycle in which the rate rises
FIRST, LAST = 0.1, 0.001  # the rate at both ends of the cycle, as fractions of its peak
PHASE = "train core"
LARGEST_GRADIENT = 5.0  # the norm to which a longer gradient is cut: nets without normalisation diverge at the peak rate otherwise


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a network is trained. Together with the samples and the network's first weights it determines the result."""

    epochs: int
    """Passes over the samples, at least 1."""

    batch: int = 64
    """Samples a step."""

    rate: float = 0.1
    """The learning rate at the peak of its cycle."""

    momentum: float = 0.9
    """Of SGD, with Nesterov's correction."""

    weight_decay: float = 5e-4
    """L2 on all weights and biases."""

    seed: int = 0
    """Draws the order of the samples and the augmentation; the network's first weights have the same seed in `fit_core`."""

    augment: bool = True
    """Shift images by up to an eighth of their side, filling in zeros. Features are never augmented."""

    flip: bool = False
    """Mirror half of the images, where augmented. Off: mirrored digits are other digits."""

    threads: int = 1
    """Processor threads. Part of the result: sums in another order have other last bits."""

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch, self.threads) < 1 or self.rate <= 0:
            raise ValueError("epochs, batch and threads are at least 1, and the rate is positive")


@dataclass(frozen=True)
class Trained:
    """How far the training came. Figures about the rows that it saw, not about new ones."""

    steps: int
    """Steps of SGD taken."""

    loss: float
    """Mean cross-entropy in nats over the last epoch, augmented, while the weights still moved."""


def default_training(architecture: Architecture, rows: int) -> Training:
    """Choose epochs so that a small core is trained in seconds and a large one in a few passes.

    About 2,500 steps whatever the number of rows, between 10 and 40 epochs: on 2,000 images 40 epochs, on 10,000 16. Augmented for
    networks of convolutions alone: a linear layer cannot make up for a shift.

    Args:
        architecture: its name settles whether images are augmented.
        rows: core rows to train on.
    """
    steps = max(1, ceil(rows / 64))
    epochs = min(40, max(10, round(2500 / steps)))
    return Training(epochs=epochs, augment=architecture.name not in ("linear", "mlp"))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Use `count` processor threads in torch within the block, then as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train(net: Network, samples: Samples, training: Training, *, progress: Progress = silent, stop: Stop = never) -> Trained:
    """Train `net` in place by cross-entropy and leave it in eval mode, without gradients.

    The input module takes its mean and scale from `samples`. The same net, samples and training give the same bits in the same
    environment.

    Args:
        net: a network from `build`; all of its parameters move.
        samples: at least 2 rows; the whole of what the network learns from.

    Raises:
        Stopped: when `stop` answers True, asked before every step. The network is then useless.
        ValueError: on fewer than 2 rows, a label outside the network's classes, or a loss that is no longer finite.
    """
    if len(samples) < 2:
        raise ValueError(f"training needs at least 2 rows, not {len(samples)}")
    if int(samples.labels.max()) >= net.architecture.classes:
        raise ValueError(f"label {int(samples.labels.max())} is outside the {net.architecture.classes} classes")
    net.input.fit(samples.inputs)
    net.requires_grad_(True).train()
    with threads(training.threads):
        figures = _epochs(net, samples, training, progress, stop)
    net.requires_grad_(False).eval()
    return figures


def _epochs(net: Network, samples: Samples, training: Training, progress: Progress, stop: Stop) -> Trained:
    generator = torch.Generator().manual_seed(training.seed)
    optimiser = torch.optim.SGD(
        net.parameters(), lr=training.rate, momentum=training.momentum, weight_decay=training.weight_decay, nesterov=training.momentum > 0
    )
    steps = ceil(len(samples) / training.batch)
    total, done, loss_sum = steps * training.epochs, 0, 0.0
    for _ in range(training.epochs):
        loss_sum = 0.0
        order = torch.randperm(len(samples), generator=generator)
        for rows in torch.tensor_split(order, steps):  # nearly equal parts: batch normalisation cannot work on a last batch of one
            check(stop)
            for group in optimiser.param_groups:
                group["lr"] = training.rate * cycle(done / total)
            inputs = samples.inputs[rows]
            if inputs.dim() == 4:
                if training.augment:
                    inputs = augmented(inputs, flip=training.flip, generator=generator)
                inputs = inputs.contiguous(memory_format=torch.channels_last)  # convolutions run a quarter faster
            loss = functional.cross_entropy(net(inputs), samples.labels[rows])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(net.parameters(), LARGEST_GRADIENT)
            optimiser.step()
            done, loss_sum = done + 1, loss_sum + float(loss.detach()) * len(rows)
            progress(PHASE, done / total)
        if not loss_sum < float("inf"):
            raise ValueError("the training diverged: its loss is not finite; try a smaller rate")
    return Trained(steps=done, loss=loss_sum / len(samples))


def cycle(fraction: float) -> float:
    """Return the learning rate, as a fraction of its peak, at a fraction of the cycle: a cosine up, then a longer one down.

    Source: Smith & Topin, 2018, section 2. https://arxiv.org/abs/1708.07120
    """
    if fraction < WARM_UP:
        return FIRST + (1 - FIRST) * (1 - cos(pi * fraction / WARM_UP)) / 2
    return LAST + (1 - LAST) * (1 + cos(pi * (fraction - WARM_UP) / (1 - WARM_UP))) / 2


def augmented(images: Tensor, *, flip: bool, generator: torch.Generator) -> Tensor:
    """Shift each image by up to an eighth of its side (at least 1, at most 4 pixels), and mirror half of them if asked.

    Args:
        images: `[b, C, H, W]`, of any dtype.
    """
    count, channels, height, width = images.shape
    reach = min(4, max(1, min(height, width) // 8))
    padded = functional.pad(images, (reach, reach, reach, reach))
    offsets = torch.randint(0, 2 * reach + 1, (2, count, 1), generator=generator)
    rows = offsets[0] + torch.arange(height)  # [b, H]
    columns = offsets[1] + torch.arange(width)  # [b, W]
    if flip:
        mirrored = torch.rand((count, 1), generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    sample = torch.arange(count)[:, None, None, None]
    return padded[sample, torch.arange(channels)[None, :, None, None], rows[:, None, :, None], columns[:, None, None, :]]
