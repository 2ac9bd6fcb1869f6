"""How many user rows: the whole network linearised, fixed taps and fine-tuning from one core network, before few rows and more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

import torch

from benchmarks.beside import beside
from benchmarks.data import images
from benchmarks.linearised import CORE_ROWS, SEEDS, TITLES, Division, accuracy_of_division, divide, drawn, solved
from benchmarks.machine import where
from benchmarks.outcome import Goal, Outcome, Table, earlier_numbers, progress
from benchmarks.tuning import Budget
from models.data import Samples
from models.nets import Architecture
from models.train import Training

NAME = "few"
MINUTES = 30
ROWS = (250, 1_000, 2_500)
"""User rows, the first of those that `linearised` draws; it has the figures of all 10,000."""

BUDGET = Budget(search=8, tune=20, scratch=0, rates=(0.001, 0.003, 0.01, 0.05), grid=True)
"""Longer search and smaller rates than there: of those there, few rows take the smallest and lose what the core network knew."""


def run(*, seeds: Sequence[int] | None = None, keep: Callable[[Outcome], None] = lambda _: None) -> Outcome:
    """Run the seeds; what earlier runs found of others is kept.

    Raises:
        DataMissing: without the benchmark data.
    """
    cells: dict[str, Any] = earlier_numbers(NAME).get("cells", {})
    train, test = images("fashion_mnist", "train"), images("fashion_mnist", "test")
    for seed in SEEDS if seeds is None else seeds:
        core_samples, user, architecture, training = drawn(train, seed)
        cells[str(seed)] = scores(core_samples, user, test, architecture, training, ROWS)
        keep(outcome_of(cells))
    return outcome_of(cells)


def scores(
    core_samples: Samples, user: Samples, test: Samples, architecture: Architecture, training: Training, counts: Sequence[int]
) -> dict[str, Any]:
    """Fit one core, and score all forms on the first user rows, as many as each of `counts` says."""
    most = divide(core_samples, user.select(torch.arange(max(counts))), test, architecture, training)
    found = {}
    for count in counts:
        division = _first(most, count)
        right = accuracy_of_division(division)
        others, chosen = beside(division.fit.core.tangent.net, core_samples, division.user, test, training, BUDGET)
        found[str(count)] = {"accuracy": right | others, "rate": chosen["rate"], "augment": chosen["augment"]}
        progress(f"{count} user rows: {found[str(count)]}")
    core = most.fit.core
    return {"rows": found, "ridge": core.ridge, "sigma": core.sigma, "where": where()}


def _first(division: Division, count: int) -> Division:
    fewer = replace(division, user=division.user.select(torch.arange(count)), rows=division.rows[:count])
    return replace(fewer, w=solved(fewer).w)


def outcome_of(cells: dict[str, Any]) -> Outcome:
    """Write the table, a column a number of user rows, and judge the goal for each: at or above fine-tuning, in the mean over seeds."""
    order = sorted(cells, key=int)
    counts = sorted(cells[order[0]]["rows"], key=int)

    def of(name: str, count: str) -> list[float]:
        return [100 * cells[seed]["rows"][count]["accuracy"][name] for seed in order]

    def told(values: list[float]) -> str:
        return f"{fmean(values):.2f}" + (f" (sd {stdev(values):.2f})" if len(values) > 1 else "")

    rows = [(title, *(told(of(name, count)) for count in counts)) for name, title in TITLES.items()]
    chosen = "; ".join(f"seed {seed}: L = {cells[seed]['ridge']:g}, sigma = {cells[seed]['sigma']:g}" for seed in order)
    places = "; ".join(f"seed {seed}: {cells[seed]['where']}" for seed in order)
    note = (
        f"Fashion-MNIST, {CORE_ROWS:,} core rows, convnet; test accuracy in %, mean of {len(order)} seeds. L and sigma chosen on core "
        f"rows: {chosen}. Fine-tuning: the best of eight tries, judged on a fifth of the user rows, then {BUDGET.tune} epochs on all of "
        f"them. Measured on: {places}."
    )
    table = Table("accuracy", ("weights", *(f"{int(count):,} user rows" for count in counts)), tuple(rows), note)
    goals = []
    for count in counts:
        short = fmean(of("fine_tune", count)) - fmean(of("whole", count))
        goals.append(Goal(f"whole network below fine-tuning, {int(count):,} user rows, points", "<= 0", f"{short:.2f}", short <= 0))
    return Outcome(NAME, "How many user rows", (table,), tuple(goals), {"cells": cells})
