"""CIFAR-10 with resnet20, its last block or all of it linearised: beside fixed taps and fine-tuning, from the same core network."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import fmean, stdev
from typing import Any

from benchmarks.clock import once
from benchmarks.data import draw, images
from benchmarks.linearised import divide
from benchmarks.machine import where
from benchmarks.outcome import Goal, Outcome, Table, earlier_numbers, progress
from benchmarks.tuning import Budget, accuracy_of, fine_tuned, fraction, search
from models.data import Samples
from models.forget.refit import refit_samples
from models.linear.core import Core, fit_core, logits
from models.linear.frozen import TARGET
from models.linear.ridge import choose_ridge
from models.linear.whole import zero
from models.nets import Architecture, Network
from models.train import Training

NAME = "cifar"
MINUTES = 240
SEEDS = (0, 1, 2)
BUDGET = Budget(search=3, tune=10, scratch=0, flip=True)

BLOCK, ALL = "block", "all"
TASKS = (BLOCK, ALL)

TITLES = {
    "network": "core network alone",
    "f0": "core with its linear part (f0)",
    "whole": "linearised, `cg`",
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
    layers: tuple[str, ...] | None = ("layer3.2", "linear")
    """Linearised: 74,634 of resnet20's 269,722 parameters. What stands before them is computed once a row up to the last stage."""
    rank: int | None = 512
    epochs: int = 20
    budget: Budget = BUDGET


WHOLE = Plan(layers=None, rank=128)


def run(*, seeds: Sequence[int] | None = None, tasks: Sequence[str] = (), keep: Callable[[Outcome], None] = lambda _: None) -> Outcome:
    """Run the seeds; what earlier runs found of others is kept.

    Args:
        tasks: of `TASKS`; () is all.

    Raises:
        DataMissing: without the benchmark data.
    """
    cells: dict[str, Any] = earlier_numbers(NAME).get("cells", {})
    train, test = images("cifar10", "train_a"), images("cifar10", "test")
    for seed in SEEDS if seeds is None else seeds:
        core_samples, user = draw(train, (Plan.core_rows, Plan.user_rows), seed=seed)
        cell = cells.setdefault(str(seed), {})
        if BLOCK in (tasks or TASKS):
            cell.update(scores(core_samples, user, test, Plan(), seed=seed))
        if ALL in (tasks or TASKS):
            cell[ALL] = linearised(core_samples, user, test, WHOLE, seed=seed)[0]
        keep(outcome_of(cells))
    return outcome_of(cells)


def scores(core_samples: Samples, user: Samples, test: Samples, plan: Plan, *, seed: int) -> dict[str, Any]:
    """Return test accuracies of one division, seconds, and what was chosen."""
    found, net = linearised(core_samples, user, test, plan, seed=seed)
    beside, more = _beside(net, core_samples, user, test, _training(plan, seed), plan)
    found["accuracy"] |= beside
    found["seconds"] |= more.pop("seconds")
    return found | more


def linearised(core_samples: Samples, user: Samples, test: Samples, plan: Plan, *, seed: int) -> tuple[dict[str, Any], Network]:
    """Return test accuracies of the linearised network alone, seconds, and what was chosen; and the network itself."""
    shape = tuple(core_samples.inputs.shape[1:])
    architecture = Architecture(name=plan.network, input_shape=shape, classes=int(core_samples.labels.max()) + 1)
    division = divide(core_samples, user, test, architecture, _training(plan, seed), layers=plan.layers, rank=plan.rank)
    core = division.fit.core
    right = {
        "network": accuracy_of(core.tangent.net, test),
        "f0": division.right(zero(core)),
        "whole": division.right(division.w),
        "noised": division.right(division.w + core.sigma * division.fit.curvature.draw(os.urandom)),
    }
    progress(f"{right}")
    spent = {"core": division.spent["core"], "whole": division.spent["solve"]}
    chosen = {"ridge": core.ridge, "sigma": core.sigma, "p": core.tangent.p, "passes": round(division.spent["passes"])}
    return {"accuracy": right, "seconds": spent, "where": where(), "plan": asdict(plan)} | chosen, core.tangent.net


def _training(plan: Plan, seed: int) -> Training:
    return Training(epochs=plan.epochs, augment=True, flip=plan.budget.flip, seed=seed)


def _beside(
    net: Network, core_samples: Samples, user: Samples, test: Samples, training: Training, plan: Plan
) -> tuple[dict[str, float], dict[str, Any]]:
    """`exact` and fine-tuning, from the same trained network; L of `exact` is chosen by a network of half of the core rows, as always."""
    architecture = net.architecture
    ridge, choosing = once(lambda: choose_ridge(architecture, core_samples, training, target=TARGET, expected_rows=len(user), given=None))
    given = partial(fit_core, weights=net.state_dict(), ridge=ridge)
    core, fitting = once(lambda: given(architecture, core_samples, training, expected_rows=len(user)))
    assert core.net is not None
    right = {"exact": fraction(logits(core, refit_samples(core, core_samples, user).weights, test.inputs), test)}
    progress(f"exact, d = {core.d}, L = {ridge:g}: {right}")
    tuned, tuning = once(lambda: _tuned(core, user, training, plan))
    right["fine_tune"] = accuracy_of(tuned[0], test)
    progress(f"fine-tuned at rate {tuned[1].rate:g}, augmented {tuned[1].augment}: {right['fine_tune']:.4f}")
    return right, {"d": core.d, "rate": tuned[1].rate, "augment": tuned[1].augment,
                   "seconds": {"exact": choosing + fitting, "fine_tune": tuning}}  # fmt: skip


def _tuned(core: Core, user: Samples, training: Training, plan: Plan) -> tuple[Network, Training]:
    chosen = search(core, user, training, plan.budget)
    return fine_tuned(core, user, replace(chosen, epochs=plan.budget.tune)), chosen


def outcome_of(cells: dict[str, Any]) -> Outcome:
    """Write a table of each task and judge the goal of both: at or above fine-tuning, in the mean over seeds."""
    blocks = {seed: cells[seed] for seed in sorted(cells, key=int) if "accuracy" in cells[seed]}
    wholes = {seed: cells[seed][ALL] for seed in sorted(cells, key=int) if ALL in cells[seed]}
    tables, goals = [], []
    for title, found in (("Last block", blocks), ("All layers", wholes)):
        if found:
            tables.append(_table(title, found))
        if both := [seed for seed in found if seed in blocks]:
            short = 100 * fmean(blocks[seed]["accuracy"]["fine_tune"] - found[seed]["accuracy"]["whole"] for seed in both)
            goals.append(Goal(f"{title.lower()} linearised, below fine-tuning, points, mean", "<= 0", f"{short:.2f}", short <= 0))
    return Outcome(NAME, "CIFAR-10, resnet20 linearised", tuple(tables), tuple(goals), {"cells": cells})


def _table(title: str, cells: dict[str, Any]) -> Table:
    rows, first = [], next(iter(cells.values()))
    for name in (name for name in TITLES if name in first["accuracy"]):
        values = [100 * cell["accuracy"][name] for cell in cells.values()]
        spread = f"{stdev(values):.2f}" if len(values) > 1 else "-"
        times = [cell["seconds"][name] for cell in cells.values() if name in cell["seconds"]]
        each = " ".join(f"{value:.2f}" for value in values)
        rows.append((TITLES[name], f"{fmean(values):.2f}", spread, each, f"{fmean(times):.0f} s" if times else ""))
    return Table(title, ("weights", "mean", "sd", f"seeds {', '.join(cells)}", "time"), tuple(rows), _note(cells, first["plan"]))


def _note(cells: dict[str, Any], plan: dict[str, Any]) -> str:
    first = next(iter(cells.values()))
    chosen = "; ".join(
        f"seed {seed}: L = {cell['ridge']:g}, sigma = {cell['sigma']:g}, {cell['passes']} passes, "
        + (f"rate {cell['rate']:g}{'' if cell['augment'] else ' unaugmented'}, " if "rate" in cell else "")
        + str(cell["where"])
        for seed, cell in cells.items()
    )
    beside = "; fine-tuning's rate and augmentation on a fifth of the user rows" if "rate" in first else ""
    taps = f"; taps: d = {first['d']:,}" if "d" in first else ""
    return (
        f"Test accuracy in %; {plan['core_rows']:,} core and {plan['user_rows']:,} user rows, {plan['network']} trained on the core rows "
        f"for {plan['epochs']} epochs; linearised: {', '.join(plan['layers'] or ('all',))}, p = {first['p']:,}, rank {plan['rank']}{taps}. "
        f"L and sigma chosen on core rows; one draw of the noise{beside}. {chosen}. Fitting the linearised core took "
        f"{fmean(cell['seconds']['core'] for cell in cells.values()):.0f} s, the network's training included. One thread."
    )
