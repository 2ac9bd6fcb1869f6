"""The whole network linearised: how accurate it is, and how many passes over the kept rows one request costs, beside the alternatives."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean, median, stdev
from typing import Any

import torch
from torch import Tensor

from benchmarks.beside import beside
from benchmarks.clock import Contender, in_turns, once
from benchmarks.data import draw, images
from benchmarks.machine import peak_of, where
from benchmarks.outcome import Goal, Outcome, Table, earlier_numbers, progress, seconds, times
from benchmarks.tuning import Budget, fine_tuned, fraction, from_scratch
from models.data import Samples
from models.forget.newton import MU_MAX, forget
from models.linear.descent import LOOKED, Descent, cg, sgd
from models.linear.quadratic import Quadratic
from models.linear.tangent import STEP, normal, prepare
from models.linear.whole import logits, quadratic, zero
from models.linear.whole_fit import WholeFit, fit_whole
from models.nets import Architecture, Network
from models.train import Training, default_training
from workers.ingest import BLOCK_ROWS
from workers.stored import StoredRows

NAME = "linearised"
MINUTES = 45
MINUTES_FULL = 30
CORE_ROWS, USER_ROWS = 2_000, 10_000
SEEDS = (0, 1, 2)
REMOVED = (1, 100, 1000)
SGD_TIMES = 30
"""Passes that the paper's SGD steps through at each rate, as a multiple of all of conjugate gradients', on a quarter of the rows."""

AFTER = "100 more, from the release"
"""A second request starts at the first one's released weights, and so at their noise: nothing else is left of the way there."""

SGD_ROWS = 2_500
RATES = (0.03, 0.1, 0.3)
NOISE_DRAWS = 8
STORED = (2_000, 10_000)  # rows whose H v is weighed where none stay in memory
BUDGET = Budget(search=8, tune=20, scratch=0)  # as in the benchmark `accuracy`

TITLES = {
    "network": "core network alone",
    "core": "core with its linear part (f0)",
    "whole": "whole network, `cg`",
    "noised": "the same, released with noise",
    "exact": "`exact`: user weights on taps",
    "fine_tune": "fine-tuning the whole network",
}


@dataclass(frozen=True)
class Division:
    """A fitted core, prepared rows, and w_u over all user rows."""

    fit: WholeFit
    user: Samples
    test: Samples
    rows: Tensor
    core_rows: Tensor
    w: Tensor
    spent: dict[str, float]

    def loss(self, stays: Tensor) -> Quadratic:
        return quadratic(self.fit.core, self.rows[stays], self.user.labels[stays], self.core_rows)

    def right(self, w: Tensor) -> float:
        return fraction(logits(self.fit.core, w, self.test.inputs), self.test)


def run(*, seeds: Sequence[int] | None = None, full: bool = False, keep: Callable[[Outcome], None] = lambda _: None) -> Outcome:
    """Fit, measure accuracy, and forget, one seed after another; what earlier runs found of other seeds is kept.

    Args:
        full: the paper's SGD too.

    Raises:
        DataMissing: without the benchmark data.
    """
    cells: dict[str, Any] = earlier_numbers(NAME).get("cells", {})
    train, test = images("fashion_mnist", "train"), images("fashion_mnist", "test")
    for seed in SEEDS if seeds is None else seeds:
        core_samples, user, architecture, training = drawn(train, seed)
        division = divide(core_samples, user, test, architecture, training)
        cell = _accuracy(division)
        others, chosen = beside(division.fit.core.tangent.net, core_samples, user, test, training, BUDGET)
        earlier = cells.get(str(seed), {})  # of another fit: the paper's SGD alone, which has a target of its own, may stay beside this one
        cells[str(seed)] = {name: earlier[name] for name in ("rivals",) if name in earlier} | cell | {"accuracy": cell["accuracy"] | others}
        keep(outcome_of(cells))
        if seed == SEEDS[0]:
            tuning = replace(training, rate=chosen["rate"], augment=chosen["augment"], epochs=BUDGET.tune, threads=BUDGET.threads)
            cells[str(seed)]["forgetting"] = _forgetting(division, core_samples, tuning)
            cells[str(seed)]["pass"] = _one_pass(division)
            keep(outcome_of(cells))
            if full:
                cells[str(seed)]["rivals"] = _rivals(division)
    return outcome_of(cells)


def drawn(train: Samples, seed: int) -> tuple[Samples, Samples, Architecture, Training]:
    """Draw a seed's core and user rows, and say how the core network is made."""
    core_samples, user = draw(train, (CORE_ROWS, USER_ROWS), seed=seed)
    architecture = Architecture(name="convnet", input_shape=tuple(core_samples.inputs.shape[1:]), classes=10)
    return core_samples, user, architecture, replace(default_training(architecture, len(core_samples)), seed=seed)


def divide(
    core_samples: Samples,
    user: Samples,
    test: Samples,
    architecture: Architecture,
    training: Training,
    *,
    rank: int | None = None,
    ridge: float | None = None,
    sigma: float | None = None,
) -> Division:
    """Fit the core as the service does, L and sigma too where none is given; then w_u over all user rows."""
    fitted = partial(fit_whole, architecture, core_samples, training, layers=None, random_bytes=os.urandom)
    fit, fitting = once(lambda: fitted(rank=rank, ridge=ridge, sigma=sigma))
    progress(f"seed {training.seed}: core fitted in {fitting:.0f} s, L = {fit.core.ridge:g}, sigma = {fit.core.sigma:g}")
    core_rows, rows = prepare(fit.core.tangent, core_samples.inputs), prepare(fit.core.tangent, user.inputs)
    division = Division(fit, user, test, rows, core_rows, zero(fit.core), {})
    found, solving = once(lambda: solved(division))
    progress(f"seed {training.seed}: w_u in {found.passes} passes, {solving:.0f} s")
    return replace(division, w=found.w, spent={"core": fitting, "solve": solving, "passes": float(found.passes)})


def solved(division: Division) -> Descent:
    """Fit w_u to all user rows of a division, from zero."""
    fit, everything = division.fit, division.loss(torch.ones(len(division.user), dtype=torch.bool))
    return cg(everything, zero(fit.core), fit.curvature, target=MU_MAX * fit.core.sigma, most=200)


def _accuracy(division: Division) -> dict[str, Any]:
    core = division.fit.core
    return {"accuracy": accuracy_of_division(division), "ridge": core.ridge, "sigma": core.sigma, "p": core.tangent.p,
            "seconds": division.spent, "where": where()}  # fmt: skip


def accuracy_of_division(division: Division) -> dict[str, float]:
    """Return the fraction of test rows right without user weights, with them, and with them as released, in the mean of some draws."""
    core, curvature = division.fit.core, division.fit.curvature
    noised = [division.right(division.w + core.sigma * curvature.draw(os.urandom)) for _ in range(NOISE_DRAWS)]
    right = {"core": division.right(zero(core)), "whole": division.right(division.w), "noised": fmean(noised)}
    progress(f"core {right['core']:.4f}, whole {right['whole']:.4f}, with noise {right['noised']:.4f}")
    return right


def _forgetting(division: Division, core_samples: Samples, tuning: Training) -> list[dict[str, Any]]:
    """Forget 1, 100, 1,000 rows and a class: passes and seconds, beside retraining w_u from zero and what a user would do instead, one
    after another, and the true distances.
    """
    core, curvature, count = division.fit.core, division.fit.curvature, len(division.user)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(9))
    gone = {str(k): order[:k] for k in REMOVED} | {"a class": (division.user.labels == 3).nonzero().flatten(), AFTER: order[:200]}
    found, released = [], division.w
    for name, chosen in gone.items():
        stays = torch.ones(count, dtype=torch.bool)
        stays[chosen] = False
        loss, again, truth = division.loss(stays), division.loss(stays), division.loss(stays)
        request = partial(
            forget,
            loss,
            released if name == AFTER else division.w,
            curvature,
            method="cg",
            sigma=core.sigma,
            mu_max=MU_MAX,
            random_bytes=os.urandom,
        )
        release, spent = once(request)
        assert release.weights is not None
        if name == "100":
            released = release.weights.double()
        refitted = cg(truth, release.descent.w, curvature, target=0.1 * MU_MAX * core.sigma, most=200).w
        distance = [_length(division, w - refitted) for w in (released if name == AFTER else division.w, release.descent.w)]
        _, retraining = once(partial(cg, again, zero(core), curvature, target=MU_MAX * core.sigma, most=200))
        scratch = {"scratch_passes": again.passes.total, "scratch_seconds": retraining}
        scratch |= _afresh(core.tangent.net, core_samples, division.user.select(stays.nonzero().flatten()), tuning)
        found.append(
            {
                "gone": name, "rows": len(chosen), "passes": release.passes, "seconds": spent, "history": release.descent.history,
                "error": release.descent.error, "reached": release.descent.reached, "before": distance[0], "after": distance[1],
                "accuracy": division.right(release.descent.w),
            } | scratch
        )  # fmt: skip
        progress(f"forgot {name}: {release.passes} passes, {spent:.0f} s {scratch}")
    return found


def _afresh(net: Network, core_samples: Samples, stays: Samples, tuning: Training) -> dict[str, float]:
    """Time what a user would do instead: fine-tune the core network once more on the user rows that stay, or train a new one on all rows
    that stay, as the core was trained.
    """
    _, tuned = once(partial(fine_tuned, net, stays, tuning))
    both = Samples(
        torch.cat([core_samples.inputs, stays.inputs]), torch.cat([core_samples.labels, stays.labels]), core_samples.ids + stays.ids
    )
    training = replace(default_training(net.architecture, len(both)), seed=tuning.seed)
    _, trained = once(partial(from_scratch, net.architecture, both, training))
    return {"tuned_seconds": tuned, "tuned_epochs": tuning.epochs, "trained_seconds": trained, "trained_epochs": training.epochs}


def _length(division: Division, e: Tensor) -> float:
    """Return |e| in the norm of the noise's shape M."""
    curvature = division.fit.curvature
    squared = float((curvature.values * curvature.along(e).square()).sum() + curvature.ridge * (e @ e))
    return float(squared**0.5)


def _one_pass(division: Division) -> dict[str, Any]:
    """Time H v over a thousand rows, and weigh it, beside its floor: one forward and one backward pass of the same network over them."""
    tangent = division.fit.core.tangent.quick(torch.device("cpu"))
    parts = [division.rows[i : i + STEP] for i in range(0, 1024, STEP)]
    v = torch.randn(tangent.p, generator=torch.Generator().manual_seed(1))
    labels = torch.zeros(STEP, dtype=torch.int64)

    def product(_: object) -> None:
        for part in parts:
            normal(tangent, part, v)

    def floor(_: object) -> None:
        values = [tangent.net.get_parameter(name).requires_grad_(True) for name in tangent.names]
        for part in parts:
            loss = torch.nn.functional.cross_entropy(tangent.net.run(part, tangent.back), labels[: len(part)])
            torch.autograd.grad(loss, values)
        tangent.net.requires_grad_(False)

    timed = in_turns({"product": Contender(product), "floor": Contender(floor)}, repeats=9)
    peaks = {name: median(peak_of(partial(run, None)) for _ in range(5)) for name, run in (("product", product), ("floor", floor))}
    stored = [median(peak_of(partial(_stored(division, count).curved, v.double())) for _ in range(3)) for count in STORED]
    return {"product": timed["product"].median, "floor": timed["floor"].median,
            "product_bytes": peaks["product"], "floor_bytes": peaks["floor"], "stored_bytes": stored}  # fmt: skip


def _stored(division: Division, count: int) -> Quadratic:
    """The loss over the first user rows, prepared anew in each pass, a thousand at a time, as the service's blocks are."""
    tangent, inputs = division.fit.core.tangent, division.user.inputs[:count]
    blocks = torch.split(inputs, BLOCK_ROWS)
    rows = StoredRows(lambda position: prepare(tangent, blocks[position]), room=0)
    for block in blocks:
        rows.add(len(block), partial(prepare, tangent, block))
    aims, core = torch.zeros(count, tangent.classes, dtype=torch.float64), division.rows[:0]
    cuts = tuple((len(block), 0) for block in blocks)
    return Quadratic(tangent.double(), tangent, rows, aims, core, division.fit.core.ridge, cuts=cuts)


def _rivals(division: Division) -> dict[str, Any]:
    """Give the paper's SGD 30 times the passes on a quarter of the rows."""
    core, curvature = division.fit.core, division.fit.curvature
    stays = torch.zeros(len(division.user), dtype=torch.bool)
    stays[100:SGD_ROWS] = True
    target = MU_MAX * core.sigma
    loss = division.loss(stays)
    newton, quick = once(lambda: cg(loss, division.w, curvature, target=target, most=200))
    most = SGD_TIMES * loss.passes.total + LOOKED + 1  # looks at the error are passes too
    errors = {}
    for rate in RATES:
        slow = division.loss(stays)
        errors[str(rate)] = sgd(slow, division.w, curvature, target=target, most=most, rate=rate).error
        progress(f"SGD at rate {rate:g}: error {errors[str(rate)] / target:.0f} times the target")
    return {
        "passes": loss.passes.total, "seconds": quick, "begun": newton.history[0], "target": target, "sgd_passes": most,
        "sgd_errors": errors, "where": where(),
    }  # fmt: skip


def outcome_of(cells: dict[str, Any]) -> Outcome:
    """Write the tables and judge the goals."""
    order = sorted(cells, key=int)
    tables, goals = [_accuracy_table(cells, order)], []
    short = 100 * fmean(cells[seed]["accuracy"]["fine_tune"] - cells[seed]["accuracy"]["whole"] for seed in order)
    goals.append(Goal("whole network below fine-tuning, points, mean", "<= 0", f"{short:.2f}", short <= 0))
    cost = 100 * fmean(cells[seed]["accuracy"]["whole"] - cells[seed]["accuracy"]["noised"] for seed in order)
    goals.append(Goal("accuracy that the noise costs, points, mean", "<= 0.5", f"{cost:.2f}", cost <= 0.5))
    first = cells[order[0]]
    if "forgetting" in first:
        tables.append(_forgetting_table(first))
        worst = max(one["passes"] for one in first["forgetting"] if one["rows"] <= max(REMOVED))
        goals.append(Goal(f"passes to mu <= {MU_MAX:g}, up to 1,000 rows", "<= 20", str(worst), worst <= 20))
        fewer = all(one["passes"] < one["scratch_passes"] for one in first["forgetting"])
        goals.append(Goal("fewer passes than w_u from zero", "all", "all" if fewer else "not all", fewer))
        for way, spent in (("fine-tuning the core network once more", "tuned_seconds"), ("training from scratch", "trained_seconds")):
            ratios = [one["seconds"] / one[spent] for one in first["forgetting"]]
            goals.append(Goal(f"time of a request, of {way}", "< 1, all", ", ".join(f"{ratio:.2f}" for ratio in ratios), max(ratios) < 1))
    if "rivals" in first:
        rivals = first["rivals"]
        least = min(rivals["sgd_errors"].values()) / rivals["target"]
        met = least > 1
        goals.append(Goal("fewer passes than the paper's SGD", f">= {SGD_TIMES}x", "more" if met else "fewer", met))
        tables.append(_rival_table(rivals))
    return Outcome(NAME, "The whole network linearised", tuple(tables), tuple(goals), {"cells": cells})


def _accuracy_table(cells: dict[str, Any], order: list[str]) -> Table:
    rows = []
    for name, title in TITLES.items():
        values = [100 * cells[seed]["accuracy"][name] for seed in order]
        spread = f"{stdev(values):.2f}" if len(values) > 1 else "-"
        rows.append((title, f"{fmean(values):.2f}", spread, " ".join(f"{value:.2f}" for value in values)))
    chosen = "; ".join(f"seed {seed}: L = {cells[seed]['ridge']:g}, sigma = {cells[seed]['sigma']:g}" for seed in order)
    spent, places = cells[order[0]]["seconds"], "; ".join(f"seed {seed}: {cells[seed]['where']}" for seed in order)
    note = (
        f"Fashion-MNIST, {CORE_ROWS:,} core and {USER_ROWS:,} user rows, convnet, p = {cells[order[0]]['p']:,}; test accuracy in %. L and "
        f"sigma chosen on core rows: {chosen}. Seed {order[0]}: core {spent['core']:.0f} s, w_u {spent['passes']:.0f} passes, "
        f"{spent['solve']:.0f} s. Measured on: {places}."
    )
    return Table("accuracy", ("weights", "mean", "sd", f"seeds {', '.join(order)}"), tuple(rows), note)


def _forgetting_table(cell: dict[str, Any]) -> Table:
    rows = tuple(
        (
            one["gone"], str(one["passes"]), seconds(one["seconds"]),
            str(one["scratch_passes"]), seconds(one["scratch_seconds"]), seconds(one["tuned_seconds"]), seconds(one["trained_seconds"]),
            f"{one['before'] / cell['sigma']:.3g}", f"{one['after'] / cell['sigma']:.2g}", f"{one['error'] / cell['sigma']:.2g}",
        )
        for one in cell["forgetting"]
    )  # fmt: skip
    one, ratio, first = cell.get("pass"), "", cell["forgetting"][0]
    epochs = [one["trained_epochs"] for one in cell["forgetting"]]
    if one:
        ratio = f" H v over 1,024 rows: {times(one['product'] / one['floor'])} of one forward and one backward pass"
        held, more = one["stored_bytes"]
        ratio += f", and {times(one['product_bytes'] / one['floor_bytes'])} of its memory, {STEP} rows at a time. "
        ratio += f"Over {STORED[1]:,} rows that are read block by block it takes {times(more / held)} of the memory of {STORED[0]:,} rows."
    note = (
        "Distances to the refitted weights (solved to a tenth of the target) in units of sigma, in the norm of the noise's shape; "
        "the bound is what the solver stopped by. "
        f"Passes over kept and core rows, one to three of them in float64.{ratio} Fine-tuning once more: the core "
        f"network on the user rows that stay, {first['tuned_epochs']} epochs; from scratch: a new network on them and the core rows, "
        f"{min(epochs)} to {max(epochs)} epochs. Both follow the request that they stand beside; one thread."
    )
    headings = ("forgotten", "passes", "time", "w_u from zero: passes", "time", "fine-tuning", "from scratch", "distance before", "after",
                "bound")  # fmt: skip
    return Table("forgetting", headings, rows, note)


def _rival_table(rivals: dict[str, Any]) -> Table:
    rows = [("conjugate gradients", str(rivals["passes"]), "1 or less")]
    rows += [
        (
            f"SGD, rate {rate}",
            str(rivals["sgd_passes"]),
            f"{error / rivals['target']:.0f}",
        )
        for rate, error in rivals["sgd_errors"].items()
    ]
    note = (
        f"100 of {SGD_ROWS:,} rows forgotten; the error before is {rivals['begun'] / rivals['target']:.0f} times the target. "
        f"SGD's passes include {LOOKED} looks at the error and the first gradient. "
        f"Measured on: {rivals['where']}."
    )
    return Table("beside the paper's SGD", ("solver", "passes", "error / target"), tuple(rows), note)
