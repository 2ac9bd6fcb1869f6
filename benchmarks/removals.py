"""A stream of single removals, MNIST 3 against 8 on raw pixels: each a full solve whose weights could be released, beside bare LAPACK."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks import rivals
from benchmarks.clock import Contender, Timing, in_turns, once
from benchmarks.data import images
from benchmarks.forget import bare_lapack, ready_system, require_equal
from benchmarks.machine import one_thread
from benchmarks.outcome import Goal, Outcome, Table, percent, progress, seconds, times
from models.data import Samples
from models.forget.refit import refit, weights_of
from models.linear.core import Core, encode, logits, plain_core
from models.linear.statistics import Rows, Statistics, subtract, zeros
from models.nets import Architecture

NAME = "removals"
MINUTES = 1
RANGE = 255.0
RIDGE = 100.0
"""L, given, since there is no core to choose it on; test accuracy is the same to .1 point from 1 to 300."""

TURN = 50
"""Removals, then bare solves, in turns of so many: a stream finds its own numbers in the caches, and so does LAPACK."""


@dataclass(frozen=True)
class Stream:
    """What a stream of removals left."""

    statistics: Statistics
    weights: Tensor
    removing: Timing
    lapack: Timing
    used: int
    """Features that LAPACK worked on at the end."""


def run(removals: int = 1_000, checked: int = 20) -> Outcome:
    """Remove one sample after another.

    Raises:
        DataMissing: without the benchmark data.
        HashesDiffer: a checked removal is not bit for bit the refitted model.
    """
    return measured(three_or_eight("train"), three_or_eight("test"), removals=removals, checked=checked)


def three_or_eight(part: str) -> Samples:
    """Return the 3s (class 0) and 8s (class 1) of a part of MNIST."""
    samples = images("mnist", part)
    chosen = samples.select((samples.labels == 3) | (samples.labels == 8))
    return Samples(chosen.inputs, (chosen.labels == 8).long(), chosen.ids)


def measured(train: Samples, test: Samples, *, removals: int, checked: int) -> Outcome:
    """Measure on any images of two classes."""
    core = plain_core(Architecture(name="linear", input_shape=tuple(train.inputs.shape[1:]), classes=2), range=RANGE, ridge=RIDGE)
    rows = encode(core, train.inputs, train.labels)
    begun = zeros(core.d, core.classes)
    before = refit(core, begun, [rows])
    progress(f"{len(train):,} rows, d = {core.d}, {removals:,} removals, {checked} of them checked")
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:removals]
    with one_thread():
        stream = remove(core, begun, rows, before.statistics, order, checked=checked)
        parts = of_parts(core, rows, stream)
    numbers = {
        "rows": len(train), "d": core.d, "used": stream.used, "removals": removals, "checked": checked, "ridge": RIDGE,
        "accuracy_before": accuracy(core, before.weights, test), "accuracy_after": accuracy(core, stream.weights, test),
        "removing": list(stream.removing.seconds), "lapack": list(stream.lapack.seconds),
        "parts": {name: timing.median for name, timing in parts.items()},
    }  # fmt: skip
    return outcome_of(numbers)


def remove(core: Core, begun: Statistics, rows: Rows, statistics: Statistics, order: Tensor, *, checked: int) -> Stream:
    """Remove the rows in this order, one at a time; after every `TURN` of them, as many bare solves on the numbers then reached.

    Raises:
        HashesDiffer: at one of the `checked` positions, drawn at random, refitting without the removed rows gives other bits.
    """
    positions = set(torch.randperm(len(order), generator=torch.Generator().manual_seed(1))[:checked].tolist())
    kept = torch.ones(len(rows), dtype=torch.bool)
    removing: list[float] = []
    lapack: list[float] = []
    removal, used = rivals.forget(statistics, Rows(rows.features[:0], rows.targets[:0]), core), 0  # warm
    for start in range(0, len(order), TURN):
        for position, row in enumerate(order[start : start + TURN].tolist(), start):
            gone = Rows(rows.features[row : row + 1], rows.targets[row : row + 1])
            removal, spent = once(partial(rivals.forget, removal.statistics, gone, core))
            removing.append(spent)
            kept[row] = False
            if position in positions:
                again = rivals.refit_cached(core, begun, Rows(rows.features[kept], rows.targets[kept]))
                require_equal(rivals.digests(removal), rivals.digests(again), n=len(rows), k=position + 1)
        bare, used = bare_solves(core, removal.statistics, len(removing) - len(lapack))
        lapack += bare
    return Stream(removal.statistics, removal.weights, Timing(tuple(removing)), Timing(tuple(lapack)), used)


def bare_solves(core: Core, statistics: Statistics, count: int) -> tuple[tuple[float, ...], int]:
    """Time bare solves of the product's own system, each on a fresh copy of it; return also its size."""
    system, right = ready_system(core, statistics)
    bare = Contender(bare_lapack, prepare=lambda: (system.copy(order="F"), right.copy(order="F")))
    return in_turns({"lapack": bare}, repeats=count)["lapack"].seconds, len(system)


def of_parts(core: Core, rows: Rows, stream: Stream, repeats: int = 100) -> dict[str, Timing]:
    """Time the two halves of a removal apart."""
    one = Rows(rows.features[:1], rows.targets[:1])
    return in_turns({
        "subtract": Contender(lambda _: subtract(stream.statistics, one)),
        "solve": Contender(lambda _: weights_of(core, stream.statistics)),
    }, repeats=repeats)  # fmt: skip


def accuracy(core: Core, weights: Tensor, test: Samples) -> float:
    """Return the fraction of test samples classified right."""
    return float((logits(core, weights, test.inputs).argmax(dim=1) == test.labels).double().mean())


def outcome_of(numbers: dict[str, Any]) -> Outcome:
    """Write the tables and judge the goal."""
    ours, bare = numbers["removing"], numbers["lapack"]
    ratio = sum(ours) / sum(bare)
    rows = (
        (f"{len(ours):,} removals: subtract, solve, weights", seconds(sum(ours)), seconds(median(ours)), times(ratio)),
        (f"{len(bare):,} bare LAPACK solves (dpotrf, dpotrs)", seconds(sum(bare)), seconds(median(bare)), "1x"),
        ("of one removal: subtract", "", seconds(numbers["parts"]["subtract"]), ""),
        ("of one removal: solve", "", seconds(numbers["parts"]["solve"]), ""),
    )
    note = (
        f"{numbers['rows']:,} rows, {numbers['d']} features of which {numbers['used']} are not zero everywhere; one thread; "
        f"L = {numbers['ridge']:g}. Test accuracy before {percent(numbers['accuracy_before'])}, after "
        f"{percent(numbers['accuracy_after'])}. {numbers['checked']} removals at random positions have the sha256, of the sums and of "
        "the weights, that refitting gives."
    )
    goals = (
        Goal(f"{len(ours):,} removals over as many bare LAPACK solves", "<= 2x", times(ratio), ratio <= 2),
        Goal("removals equal to refitting by hash", f"{numbers['checked']}", f"{numbers['checked']}", True),
    )
    table = Table("One removal after another", ("what", "all", "median", "against LAPACK"), rows, note)
    return Outcome(NAME, "Single removals: MNIST 3 against 8", (table,), goals, numbers)
