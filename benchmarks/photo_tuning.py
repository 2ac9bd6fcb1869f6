"""Fine-tuning of a pretrained network whose batch normalisation is folded into scales and offsets."""

from __future__ import annotations

import copy

import torch
from torch.nn import functional

from models.data import Samples
from models.nets import Network
from models.train import augmented, cycle

TUNE = 12  # epochs
BATCH, MOMENTUM, DECAY = 32, 0.9, 1e-4


def fine_tuned(net: Network, samples: Samples, *, rate: float, epochs: int, seed: int) -> Network:
    """Train a copy of a network, every layer of it, with shifted and mirrored images.

    Batch normalisation stays in eval mode: in these weights it is folded into scales and offsets (mean 0, variance 1), and batches' own
    means and variances would undo what the network knows: it falls to chance.
    """
    net = copy.deepcopy(net).requires_grad_(True)
    optimiser = torch.optim.SGD(net.parameters(), lr=rate, momentum=MOMENTUM, weight_decay=DECAY, nesterov=True)
    generator = torch.Generator().manual_seed(seed)
    batches = [part for _ in range(epochs) for part in torch.split(torch.randperm(len(samples), generator=generator), BATCH)]
    for number, chosen in enumerate(batches):
        for group in optimiser.param_groups:
            group["lr"] = rate * cycle(number / len(batches))
        inputs = augmented(samples.inputs[chosen], flip=True, generator=generator)
        optimiser.zero_grad()
        functional.cross_entropy(net(inputs), samples.labels[chosen]).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return net.requires_grad_(False)
