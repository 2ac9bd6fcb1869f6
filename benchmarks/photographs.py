"""A pretrained MobileNetV2 before few photographs: its last stages linearised, fixed taps and fine-tuning, over three divisions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from benchmarks.caltech import DATA_SET, LAYERS, WEIGHTS, Fitted, Plan, divide, exact_on_taps, fitted, forgotten, headed, pretrained
from benchmarks.clock import once
from benchmarks.data import folder, images
from benchmarks.machine import one_thread, where
from benchmarks.outcome import Goal, Outcome, Table, earlier_numbers, progress
from benchmarks.photo_tuning import TUNE, fine_tuned
from benchmarks.tuning import accuracy_of
from models.data import Samples
from models.linear.whole import zero
from models.nets import Architecture, Network

NAME = "photographs"
MINUTES = 35
SEEDS = (0, 1, 2)
RATES = (0.0001, 0.0003, 0.001, 0.003)
"""Of fine-tuning; chosen on a fifth of the user rows of the division that is run first."""

SEARCH, HELD_OUT = 6, 5  # epochs of each try, on all but one user row in so many

TITLES = {
    "network": "pretrained network, head trained on the core rows",
    "f0": "core with its linear part (f0)",
    "whole": "last stages linearised, `cg`",
    "released": "the same, as released",
    "exact": "`exact`: user weights on taps",
    "fine_tune": "fine-tuning the whole network",
}


def run(*, seeds: Sequence[int] | None = None, keep: Callable[[Outcome], None] = lambda _: None) -> Outcome:
    """Run the divisions; what earlier runs found of others is kept.

    Raises:
        DataMissing: without the photographs or the weights.
    """
    cells: dict[str, Any] = earlier_numbers(NAME).get("cells", {})
    train, test = images(DATA_SET, "train"), images(DATA_SET, "test")
    weights, plan = pretrained(folder() / "weights" / WEIGHTS), Plan()
    for seed in SEEDS if seeds is None else seeds:
        core_samples, user = divide(train, plan, seed=seed)
        earlier = next((cell["rate"] for cell in cells.values()), None)
        cells[str(seed)] = scores(core_samples, user, test, weights, plan, seed=seed, rate=earlier)
        keep(outcome_of(cells))
    return outcome_of(cells)


def scores(
    core_samples: Samples, user: Samples, test: Samples, weights: dict[str, Tensor], plan: Plan, *, seed: int, rate: float | None
) -> dict[str, Any]:
    """Return test accuracies of one division, seconds, and the rate of fine-tuning: `rate`, or the best of `RATES`."""
    architecture = Architecture(name="mobilenet_v2", input_shape=tuple(user.inputs.shape[1:]), classes=int(test.labels.max()) + 1)
    with one_thread():
        given = headed(weights, architecture, core_samples)
        model, fitting = once(partial(fitted, architecture, core_samples, user, test, given, plan))
        right, passes = _linearised(model)
        (right["exact"], d), counting = once(partial(exact_on_taps, architecture, core_samples, user, test, given))
        net = model.fit.core.tangent.net
        right["network"] = accuracy_of(net, test)
        progress(f"{right}")
        chosen = rate or _searched(net, user, seed=seed)
        tuned, tuning = once(lambda: fine_tuned(net, user, rate=chosen, epochs=TUNE, seed=seed))
        right["fine_tune"] = accuracy_of(tuned, test)
        progress(f"fine-tuned at rate {chosen:g}: {right['fine_tune']:.4f}")
    return {
        "accuracy": right, "seconds": {"whole": fitting, "exact": counting, "fine_tune": tuning}, "rate": chosen, "passes": passes, "d": d,
        "rows": [len(core_samples), len(user), len(test)], "p": model.fit.core.tangent.p, "where": where(),
    }  # fmt: skip


def _linearised(model: Fitted) -> tuple[dict[str, float], int]:
    core = model.fit.core
    release = forgotten(model, model.loss(torch.ones(len(model.user), dtype=torch.bool)), zero(core))
    assert release.weights is not None, "the first fit did not reach its target"
    right = {"f0": model.right(zero(core)), "whole": model.right(release.descent.w), "released": model.right(release.weights)}
    return right, release.passes


def _searched(net: Network, user: Samples, *, seed: int) -> float:
    order = torch.randperm(len(user), generator=torch.Generator().manual_seed(seed))
    held, kept = user.select(order[: len(user) // HELD_OUT]), user.select(order[len(user) // HELD_OUT :])
    found = {rate: accuracy_of(fine_tuned(net, kept, rate=rate, epochs=SEARCH, seed=seed), held) for rate in RATES}
    progress(f"rates of fine-tuning, on user rows held out: {found}")
    return max(found, key=found.__getitem__)


def outcome_of(cells: dict[str, Any]) -> Outcome:
    """Write the table and judge the goal: at or above fine-tuning, in the mean over divisions."""
    order = sorted(cells, key=int)
    rows = []
    for name, title in TITLES.items():
        values = [100 * cells[seed]["accuracy"][name] for seed in order]
        times = [cells[seed]["seconds"][name] for seed in order if name in cells[seed]["seconds"]]
        spread = f"{stdev(values):.2f}" if len(values) > 1 else "-"
        each = " ".join(f"{value:.2f}" for value in values)
        rows.append((title, f"{fmean(values):.2f}", spread, each, f"{fmean(times):.0f} s" if times else ""))
    first = cells[order[0]]
    core, user, test = first["rows"]
    places = "; ".join(f"division {seed}: {cells[seed]['where']}" for seed in order)
    note = (
        f"Test accuracy in %; {core} core, {user} user and {test} test rows; one row is {100 / test:.2f} points, the standard error of one "
        f"division about {100 * (0.09 / test) ** 0.5:.1f}. Linearised: {', '.join(LAYERS)}, p = {first['p']:,}; taps: d = {first['d']:,}. "
        f"Fine-tuning at rate {first['rate']:g}, one of {len(RATES)} tried on the division that was run first, {TUNE} epochs, shifted and "
        "mirrored images. Times: of the linearised core without w_u; of `exact` in all; of fine-tuning without that choice. One thread. "
        f"Measured on: {places}."
    )
    short = 100 * fmean(cells[seed]["accuracy"]["fine_tune"] - cells[seed]["accuracy"]["whole"] for seed in order)
    goals = (Goal("last stages linearised, below fine-tuning, points, mean", "<= 0", f"{short:.2f}", short <= 0),)
    table = Table("Accuracy", ("model", "mean", "sd", f"divisions {', '.join(order)}", "time"), tuple(rows), note)
    return Outcome(NAME, "A pretrained core before few photographs", (table,), goals, {"cells": cells})
