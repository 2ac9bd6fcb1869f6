"""A small problem with a private attribute: the task and the attribute in some features, mixed, and a network that has learnt the task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.data import Samples
from models.erase.attribute import Attributed
from models.nets import Architecture, Network, build
from models.train import Training, train

MIXED = Architecture(name="mlp", input_shape=(10,), classes=3, hidden=(24, 12))
PICTURES = Architecture(name="resnet20", input_shape=(1, 8, 8), classes=3, hidden=None)


def mixed(rows: int, *, values: int = 2, seed: int = 0, agree: float = 0.6) -> Attributed:
    """Rows whose label and attribute are both written in ten features; they agree (modulo the values) in a share of the rows."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (rows,), generator=draw)
    free = torch.randint(0, values, (rows,), generator=draw)
    values_of = torch.where(torch.rand(rows, generator=draw) < agree, labels % values, free)
    told = torch.cat([torch.eye(3)[labels], torch.eye(values)[values_of]], dim=1)
    turn = torch.randn(told.shape[1], 10, generator=torch.Generator().manual_seed(99))
    inputs = told @ turn + 0.4 * torch.randn(rows, 10, generator=draw)
    return Attributed(Samples(inputs, labels, tuple(f"{seed}-{i}" for i in range(rows))), values_of)


def pictures(rows: int, *, seed: int = 0) -> Attributed:
    """Noisy 8 x 8 pictures: a bright quarter tells the label, the brightness of the whole the attribute."""
    draw = torch.Generator().manual_seed(seed)
    labels, values_of = torch.randint(0, 3, (rows,), generator=draw), torch.randint(0, 2, (rows,), generator=draw)
    images = torch.randint(0, 60, (rows, 1, 8, 8), generator=draw) + 60 * values_of[:, None, None, None]
    for place, (top, left) in enumerate(((0, 0), (0, 4), (4, 0))):
        images[labels == place, :, top : top + 4, left : left + 4] += 90
    return Attributed(Samples(images.to(torch.uint8), labels, tuple(f"{seed}-{i}" for i in range(rows))), values_of)


def trained(architecture: Architecture, rows: Attributed, *, epochs: int = 4) -> Network:
    net = build(architecture, 0)
    train(net, rows.samples, Training(epochs=epochs, batch=32, augment=False))
    return net


@dataclass
class Keeper:
    """A watch that keeps every state, and ends after some epoch."""

    end: int = 10_000
    states: list[dict[str, Tensor]] = field(default_factory=list)

    def epoch(self, number: int, state: Mapping[str, Tensor]) -> bool:
        self.states.append(dict(state))
        return number >= self.end


def same(first: Network, second: Network) -> bool:
    """Whether two networks hold the same bits."""
    own, other = first.state_dict(), second.state_dict()
    return own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)
