"""Private heads: small readers of the attribute that a network learns against."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from models.nets.bottleneck import LEAK

HeadKind = Literal["linear", "mlp"]
HIDDEN = 64


def make(kind: HeadKind, width: int, values: int, generator: torch.Generator) -> nn.Sequential:
    """Make a head from features `[n, width]` to scores `[n, values]`, its weights drawn.

    linear    one linear layer: the paper's. It says that nothing is left where an MLP still reads almost everything
    mlp       two hidden layers
    """
    sizes = (width, values) if kind == "linear" else (width, HIDDEN, HIDDEN, values)
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.LeakyReLU(LEAK)]
    head = nn.Sequential(*layers[:-1])
    redraw(head, generator)
    return head


@torch.no_grad()
def redraw(head: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights anew: a head that has lost track of the features is replaced by one that has not."""
    for layer in head.modules():
        if isinstance(layer, nn.Linear):
            gain = 2.0 if layer.out_features == HIDDEN else 1.0  # of a layer that a leaky-ReLU follows
            layer.weight.normal_(std=(gain / layer.in_features) ** 0.5, generator=generator)
            layer.bias.zero_()


def begin_anew(head: nn.Module, optimiser: torch.optim.Optimizer, generator: torch.Generator) -> None:
    """Draw a head anew and forget its momentum."""
    redraw(head, generator)
    for value in head.parameters():
        optimiser.state.pop(value, None)


def of_state(state: dict[str, Tensor], kind: HeadKind, width: int, values: int) -> list[nn.Sequential]:
    """Return the heads of a checkpoint, for the own figure that stands beside the fresh probes and never decides."""
    numbers = sorted({int(key.split(".")[1]) for key in state if key.startswith("heads.")})
    found = []
    for number in numbers:
        head = make(kind, width, values, torch.Generator())
        prefix = f"heads.{number}."
        head.load_state_dict({key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)})
        found.append(head.requires_grad_(False).eval())
    return found
