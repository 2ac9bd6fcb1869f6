"""What frozen features cost: `exact` beside fine-tuning the whole network on the user data, and training from scratch on everything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from benchmarks.data import draw, images
from benchmarks.outcome import Goal, Outcome, Table, earlier_numbers, progress, seconds
from benchmarks.tuning import Budget, scores

NAME = "accuracy"
MINUTES = 8
MINUTES_LARGE = 30

METHODS = {
    "network": "core network alone",
    "core": "core with its linear part (f0)",
    "exact": "`exact`: user weights on taps",
    "finer": "`exact` with a finer `grid`",
    "fine_tune": "fine-tuning the whole network",
    "scratch": "from scratch on core + user",
}


@dataclass(frozen=True)
class Task:
    """A data set, divided."""

    name: str
    data_set: str
    train: str
    core_rows: int
    user_rows: int
    seeds: tuple[int, ...]
    budget: Budget
    finer: int | None = None
    """A grid beside the default, for tasks with rows enough to be worth it."""


STANDARD = (Task("fashion-2k", "fashion_mnist", "train", 2_000, 10_000, (0, 1, 2), Budget(search=8, tune=20, scratch=20)),)
LARGE = (
    Task("fashion-10k", "fashion_mnist", "train", 10_000, 50_000, (0,), Budget(search=4, tune=8, scratch=10), finer=6),
    Task("cifar-5k", "cifar10", "train_a", 5_000, 20_000, (0,), Budget(search=8, tune=15, scratch=20, flip=True)),
)


def run(
    *, full: bool = False, tasks: Sequence[str] = (), seeds: Sequence[int] | None = None, keep: Callable[[Outcome], None] = lambda _: None
) -> Outcome:
    """Run the tasks, one seed after another; what earlier runs found of other seeds and tasks is kept in the result.

    Args:
        full: the large tasks too.
        tasks: run these alone, by name.
        seeds: run these alone instead of every task's own.
        keep: called with all that is known after every seed, so that a run that is cut short loses one.

    Raises:
        DataMissing: without the benchmark data.
    """
    cells: dict[str, dict[str, Any]] = earlier_numbers(NAME).get("cells", {})
    named = [task for task in (*STANDARD, *LARGE) if task.name in tasks]
    for task in named or (*STANDARD, *(LARGE if full else ())):
        train, test = images(task.data_set, task.train), images(task.data_set, "test")
        for seed in task.seeds if seeds is None else seeds:
            progress(f"{task.name}, seed {seed}: {task.core_rows:,} core and {task.user_rows:,} user rows")
            core_samples, user = draw(train, (task.core_rows, task.user_rows), seed=seed)
            found = scores(core_samples, user, test, task.budget, seed=seed, finer=task.finer)
            cells.setdefault(task.name, {})[str(seed)] = found | {"budget": asdict(task.budget)}
            keep(outcome_of(cells))
    return outcome_of(cells)


def outcome_of(cells: dict[str, dict[str, Any]]) -> Outcome:
    """Write one table a task and judge the goal: within a point of fine-tuning, in the mean over seeds."""
    tables, goals = [], []
    for task, by_seed in cells.items():
        order = sorted(by_seed, key=int)
        tables.append(_table(task, [by_seed[seed] for seed in order], order))
        for method in ("exact", "finer"):
            if all(method in one["accuracy"] for one in by_seed.values()):
                short = gap(list(by_seed.values()), method)
                goals.append(Goal(f"{task}: {METHODS[method]}, below fine-tuning, points", "<= 1.00", f"{short:.2f}", short <= 1.0))
    return Outcome(NAME, "Accuracy of `exact` beside fine-tuning", tuple(tables), tuple(goals), {"cells": cells})


def gap(found: list[dict[str, Any]], method: str = "exact") -> float:
    """Return by how many points a method lies below fine-tuning, in the mean; negative where it lies above."""
    return 100 * fmean(one["accuracy"]["fine_tune"] - one["accuracy"][method] for one in found)


def _table(task: str, found: list[dict[str, Any]], seeds: list[str]) -> Table:
    rows = []
    for method, title in METHODS.items():
        if method not in found[0]["accuracy"]:
            continue
        values = [100 * one["accuracy"][method] for one in found]
        spread = f"{stdev(values):.2f}" if len(values) > 1 else "-"
        spent = seconds(fmean(one["seconds"][method] for one in found)) if method in found[0]["seconds"] else ""
        rows.append((title, f"{fmean(values):.2f}", spread, " ".join(f"{value:.2f}" for value in values), spent))
    chosen = "; ".join(
        f"seed {seed}: L = {one['ridge']:g}, rate {one['rate']:g}{'' if one['augment'] else ' unaugmented'}"
        for seed, one in zip(seeds, found, strict=True)
    )
    budget = found[0]["budget"]
    note = (
        f"Test accuracy in %, d = {found[0]['d']:,}{_finer(found[0])}. L chosen by the product on core rows; fine-tuning's rate and "
        f"augmentation on a fifth of the user rows, {budget['search']} epochs each, then {budget['tune']} epochs on all of them; from "
        f"scratch {budget['scratch']} epochs at the core's rate, augmented as fine-tuning chose. Chosen: {chosen}."
    )
    headings = ("method", "mean", "sd", f"seeds {', '.join(seeds)}", "time")
    return Table(task, headings, tuple(rows), note)


def _finer(one: dict[str, Any]) -> str:
    return f" ({one['d_finer']:,} with `grid: {one['grid']}`)" if "grid" in one else ""
