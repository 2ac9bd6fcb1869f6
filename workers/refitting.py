"""A network that was changed becomes a core again, with user weights fitted on top: what a point reached, before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from models.audit.utility import Accuracy, accuracy
from models.data import Samples
from models.forget.refit import weights_of
from models.linear.core import Core, core_statistics, encode, fit_core, logits_of_rows
from models.linear.features import BATCH
from models.linear.statistics import Rows, Statistics, merge, zeros
from models.nets import Architecture, Network
from models.progress import Progress
from workers.artifacts import in_final_half, rows_with_role, samples_of
from workers.encoding import Sums
from workers.recipe import named_failures, training_of

Blocks = Callable[[], Iterable[tuple[int, pa.Table]]]
"""Gives the data set's blocks, as often as it is called: user rows need not all fit into memory."""


@dataclass(frozen=True)
class Refitted:
    """A core and user weights on top of it."""

    core: Core
    statistics: Statistics
    weights: Tensor
    """`[d, C]` float64."""
    parts: tuple[Statistics, Statistics] | None = None
    """The sums over each half of the user rows; None where either would be empty."""

    def halves(self) -> tuple[Refitted, ...]:
        """The same core with user weights fitted on either half of the user rows: what retraining varies by."""
        return tuple(Refitted(self.core, sums, weights_of(self.core, sums)) for sums in self.parts or ())


def core_on(spec: Mapping[str, Any], network: Network, samples: Samples, *, progress: Progress) -> Core:
    """Fit scale and linear part of a given network, as for any core, on core rows alone.

    Raises:
        Failure: the network does not fit the data.
    """
    with named_failures():
        return fit_core(
            network.architecture,
            samples,
            training_of(spec, network.architecture, len(samples)),
            target=spec["target"],
            ridge=spec["ridge"],
            expected_rows=spec["expected_rows"] or len(samples),
            weights=dict(network.state_dict()),
            progress=progress,
        )


def refitted(core: Core, samples: Samples, blocks: Blocks, classes: list[Any], *, progress: Callable[[float], None]) -> Refitted:
    """Fit user weights on a core, from the same integers that a published version is fitted from; rows are halved by their id's digest.

    Args:
        samples: the core rows.
    """
    shape, base = core.architecture.input_shape, core_statistics(core, samples.inputs)
    first, second = Sums(base), Sums(zeros(core.d, core.classes))
    for number, block in blocks():
        rows = rows_with_role([block], "user")
        if len(rows):
            users = samples_of(rows, shape, classes)
            read, other = encode(core, users.inputs, users.labels), torch.tensor([in_final_half(i) for i in users.ids])
            for sums, part in ((first, ~other), (second, other)):
                sums.take(Rows(read.features[part], read.targets[part]))
        progress(number)
    statistics = merge(first.total(), second.total())
    halves = (first.total(), merge(base, second.total()))
    return Refitted(core, statistics, weights_of(core, statistics), halves if all(half.rows for half in halves) else None)


def answers_of(model: Refitted, rows: Samples) -> Tensor:
    """What the whole model answers, `[n]` int64, from the same integers that a version's accuracy is counted from."""
    read = encode(model.core, rows.inputs, rows.labels)
    return logits_of_rows(model.core, model.weights, read, rows.labels).argmax(dim=1)


def right_of(model: Refitted, rows: Samples) -> Tensor:
    """Which rows the whole model names rightly, `[n]` booleans."""
    return answers_of(model, rows) == rows.labels


@torch.inference_mode()
def own_accuracy(net: Network, rows: Samples) -> float:
    """The share of rows that the network alone names rightly, without linear part and user weights."""
    answers = [net(part).argmax(dim=1) for part in torch.split(rows.inputs, BATCH)]
    return float((torch.cat(answers) == rows.labels).double().mean())


def counted(right: Tensor) -> Accuracy | None:
    """The same as a count; None below 20 rows."""
    logits = torch.stack([~right, right], dim=1).float()
    return accuracy(logits, torch.ones(len(right), dtype=torch.int64))


def plain(architecture: Architecture) -> dict[str, Any]:
    """A network's form as JSON values, as model.json writes it."""
    written = {
        "name": architecture.name,
        "activation": architecture.activation,
        "bottleneck": architecture.bottleneck,
        "taps": list(architecture.taps) if architecture.taps else None,
        "hidden": list(architecture.hidden) if architecture.hidden else None,
    }
    return written | ({"adapter": architecture.adapter.form()} if architecture.adapter else {})
