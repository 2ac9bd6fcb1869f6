"""Rows whose attribute has been exchanged: where it tells the label, rows in which it no longer does, to learn the task from."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from models.data import Samples
from models.erase.attribute import Attributed
from models.nets import Architecture, Network, build
from models.progress import Progress, Stop, never, silent
from models.train import Training, train

RIDGE = 1e-3
CONTRARY = 0.06
"""Share of the rows that the contrary ones, x."""


def effects(rows: Attributed, values: int) -> Tensor:
    """Return what each value adds to the inputs on average where the label is held fixed, `[K, ...]`, to be added to raw inputs.

    Least squares of x = a_y + b_v, every cell (label, value) that occurs weighing the same. Of images one number a channel: the few rows
    that tell a value from its label tell no more, and a picture of them would be left behind in every row that is exchanged.

    Args:
        rows: all of known value.
    """
    inputs, labels = rows.samples.inputs, rows.samples.labels
    x = inputs.flatten(2).double().mean(dim=2) if inputs.dim() > 2 else inputs.double()
    classes = int(labels.max()) + 1
    design = torch.cat([functional.one_hot(labels, classes), functional.one_hot(rows.values, values)], dim=1).double()
    cell = labels * values + rows.values
    weighed = design / torch.bincount(cell).double()[cell][:, None]
    found = torch.linalg.solve(design.T @ weighed + RIDGE * torch.eye(classes + values, dtype=torch.float64), weighed.T @ x)
    out: Tensor = found[classes:].float().view(values, -1, *(1,) * (inputs.dim() - 2))
    return out


def contrary(rows: Attributed, values: int) -> Tensor:
    """Return the numbers of the rows whose value is not their label's commonest."""
    classes = int(rows.samples.labels.max()) + 1
    counts = torch.bincount(rows.samples.labels * values + rows.values, minlength=classes * values).view(classes, values)
    return (rows.values != counts.argmax(dim=1)[rows.samples.labels]).nonzero().flatten()


def exchanged(rows: Attributed, values: int, *, seed: int) -> Attributed:
    """Return every row with another value's mean effect in place of its own, the values drawn evenly; contrary rows also unchanged.

    By way of a second drawn value, within the inputs' range: what the cut there leaves behind tells less about the value that a row had.
    Rows without a value stay as they are.
    """
    generator = torch.Generator().manual_seed(seed)
    known, rest = rows.known, rows.select(rows.values < 0)
    x, at, added = known.samples.inputs.float(), known.values, effects(known, values)
    pixels = known.samples.inputs.dtype == torch.uint8
    low, high = (torch.tensor(0.0), torch.tensor(255.0)) if pixels else (x.amin(dim=0), x.amax(dim=0))
    for drawn in torch.randint(0, values, (2, len(known)), generator=generator):
        x = torch.clamp(x + added[drawn] - added[at], low, high)
        at = drawn
    inputs = x.round().to(torch.uint8) if pixels else x
    other = contrary(known, values)
    other = other.repeat(max(1, round(CONTRARY * len(known) / max(1, len(other)))))
    labels = known.samples.labels
    whole = Samples(
        torch.cat([known.samples.inputs[other], inputs, rest.samples.inputs]),
        torch.cat([labels[other], labels, rest.samples.labels]),
        tuple(f"exchanged-{number}" for number in range(len(other) + len(rows))),
    )
    return Attributed(whole, torch.cat([known.values[other], at, rest.values]))


def relearnt(
    architecture: Architecture, rows: Attributed, epochs: int, *, seed: int, progress: Progress = silent, stop: Stop = never
) -> Network:
    """Return a network that has learnt the task from drawn weights: one that reads the attribute hardly comes off it again."""
    net = build(architecture, seed)
    train(net, rows.samples, Training(epochs=epochs, augment=False, seed=seed), progress=progress, stop=stop)
    return net
