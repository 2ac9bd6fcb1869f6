"""CIFAR-10 with resnet20, all of it linearised: beside fixed taps and fine-tuning, all three from one core network."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from benchmarks.beside import beside
from benchmarks.data import draw, images
from benchmarks.linearised import divide
from benchmarks.machine import where
from benchmarks.outcome import Goal, Outcome, Table, earlier_numbers, progress
from benchmarks.tuning import Budget
from models.data import Samples
from models.linear.whole import zero
from models.nets import Architecture
from models.train import Training

NAME = "cifar"
MINUTES = 210
SEEDS = (0, 1, 2)
BUDGET = Budget(search=3, tune=10, scratch=0, flip=True)

TITLES = {
    "network": "core network alone",
    "f0": "core with its linear part (f0)",
    "whole": "all layers linearised, `cg`",
    "noised": "the same, released with noise",
    "exact": "`exact`: user weights on taps",
    "fine_tune": "fine-tuning the whole network",
}


@dataclass(frozen=True)
class Plan:
    """How much there is, and how long everything is trained."""

    core_rows: int = 2_000
    user_rows: int = 5_000
    network: str = "resnet20"
    rank: int | None = 128
    ridge: float | None = 3000.0
    """L; None chooses it as the service does. Of its five values the largest two, 3,000 and 900, made 277 and 275 errors on seed 0's 500
    core rows that judge, after 13 minutes on two cores beside other runs; the largest of those that are as good is taken. The others were
    not tried."""
    sigma: float | None = 0.2
    """None chooses it with L."""
    epochs: int = 20
    budget: Budget = BUDGET


def run(*, seeds: Sequence[int] | None = None, keep: Callable[[Outcome], None] = lambda _: None) -> Outcome:
    """Run the seeds; what earlier runs found of others is kept.

    Raises:
        DataMissing: without the benchmark data.
    """
    cells: dict[str, Any] = earlier_numbers(NAME).get("cells", {})
    train, test = images("cifar10", "train_a"), images("cifar10", "test")
    plan = Plan()
    for seed in SEEDS if seeds is None else seeds:
        core_samples, user = draw(train, (plan.core_rows, plan.user_rows), seed=seed)
        cells[str(seed)] = scores(core_samples, user, test, plan, seed=seed)
        keep(outcome_of(cells))
    return outcome_of(cells)


def scores(core_samples: Samples, user: Samples, test: Samples, plan: Plan, *, seed: int) -> dict[str, Any]:
    """Return test accuracies of one division, seconds, and what was chosen."""
    shape = tuple(core_samples.inputs.shape[1:])
    architecture = Architecture(name=plan.network, input_shape=shape, classes=int(core_samples.labels.max()) + 1)
    training = Training(epochs=plan.epochs, augment=True, flip=plan.budget.flip, seed=seed)
    division = divide(core_samples, user, test, architecture, training, rank=plan.rank, ridge=plan.ridge, sigma=plan.sigma)
    core = division.fit.core
    right = {
        "f0": division.right(zero(core)),
        "whole": division.right(division.w),
        "noised": division.right(division.w + core.sigma * division.fit.curvature.draw(os.urandom)),
    }
    progress(f"{right}")
    others, more = beside(core.tangent.net, core_samples, user, test, training, plan.budget)
    spent = {"core": division.spent["core"], "whole": division.spent["solve"]} | more.pop("seconds")
    chosen = {"ridge": core.ridge, "sigma": core.sigma, "p": core.tangent.p, "passes": round(division.spent["passes"])}
    return {"accuracy": right | others, "seconds": spent, "where": where(), "plan": asdict(plan)} | chosen | more


def outcome_of(cells: dict[str, Any]) -> Outcome:
    """Write the table and judge the goal: at or above fine-tuning, in the mean over seeds."""
    order = sorted(cells, key=int)
    rows = []
    for name, title in TITLES.items():
        values = [100 * cells[seed]["accuracy"][name] for seed in order]
        spread = f"{stdev(values):.2f}" if len(values) > 1 else "-"
        times = [cells[seed]["seconds"][name] for seed in order if name in cells[seed]["seconds"]]
        each = " ".join(f"{value:.2f}" for value in values)
        rows.append((title, f"{fmean(values):.2f}", spread, each, f"{fmean(times):.0f} s" if times else ""))
    first = cells[order[0]]
    plan = first["plan"]
    chosen = "; ".join(
        f"seed {seed}: L = {one['ridge']:g}, sigma = {one['sigma']:g}, {one['passes']} passes, rate {one['rate']:g}"
        f"{'' if one['augment'] else ' unaugmented'}, {one['where']}"
        for seed, one in ((seed, cells[seed]) for seed in order)
    )
    note = (
        f"Test accuracy in %; {plan['core_rows']:,} core and {plan['user_rows']:,} user rows, {plan['network']} trained on the core rows "
        f"for {plan['epochs']} epochs; linearised: all layers, p = {first['p']:,}, rank {plan['rank']}; taps: d = {first['d']:,}. "
        f"L and sigma were given; one draw of the noise; fine-tuning's rate and augmentation on a fifth of the user rows. {chosen}. "
        f"Fitting the linearised core took {fmean(cells[seed]['seconds']['core'] for seed in order):.0f} s, the network's training "
        "included. One thread."
    )
    short = 100 * fmean(cells[seed]["accuracy"]["fine_tune"] - cells[seed]["accuracy"]["whole"] for seed in order)
    goals = (Goal("all layers linearised, below fine-tuning, points, mean", "<= 0", f"{short:.2f}", short <= 0),)
    table = Table("Accuracy", ("weights", "mean", "sd", f"seeds {', '.join(order)}", "time"), tuple(rows), note)
    return Outcome(NAME, "CIFAR-10, all of resnet20 linearised", (table,), goals, {"cells": cells})
