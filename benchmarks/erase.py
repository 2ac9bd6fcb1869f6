"""Attribute removal: what fresh probes still find after each method, what the method's own head says, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from benchmarks import erase_speed
from benchmarks.attributes import TASKS, Rows, Task
from benchmarks.clock import once
from benchmarks.machine import where
from benchmarks.outcome import Goal, Outcome, Table, earlier_numbers, progress
from models.audit.probe import Held, Probed, probe
from models.erase import heads, irene, leace, lnl, quantized
from models.erase.attribute import Attributed, balance, label_information
from models.erase.auto import is_biased
from models.erase.code_information import code_information
from models.erase.information import answered
from models.erase.keys import rekeyed, with_noise
from models.erase.scope import Scope, bottleneck_values, extended
from models.nets import Adapter, Network, build
from models.train import train

NAME = "erase"
MINUTES = 75
SEEDS = (0, 1, 2)
RESAMPLES = 300
KEY = bytes(range(1, 33))  # a benchmark's: whoever serves draws a secret one
PAPER_EPOCHS = {"bottleneck": 20, "network": 12}
"""Epochs of IRENE's published setting, which says 80 on twelve times the rows: more change nothing in what a linear head can see."""

VANILLA, PAPER, STRONG, LNL, QUANTIZED, LEACE, LAST, AGAIN = (
    "vanilla", "IRENE, as published", "IRENE, strong", "LNL", "quantised", "LEACE", "IRENE, strong + LEACE",
    "IRENE, task learnt again, noise",
)  # fmt: skip
METHODS = (VANILLA, PAPER, STRONG, LNL, QUANTIZED, LEACE, LAST, AGAIN)
LN2 = math.log(2.0)
NOISES = (0.2, 0.28, 0.4, 0.57, 0.8, 1.1, 1.6, 2.3)
"""Standard deviations that may be served with, the least first."""
LITTLE = 0.1
"""Share of H(v) that the upper limit of probes on the validation half may find, for a noise to be enough."""
WIDE = 16
"""Code before LEACE: it takes a direction for each value but one, and of the log-odds code of two classes that is all there is."""


@dataclass
class Last:
    """Keeps the last state: the method's own head is in it."""

    state: dict[str, Tensor] = field(default_factory=dict)

    def epoch(self, number: int, state: Mapping[str, Tensor]) -> bool:
        self.state = dict(state)
        return False


def run(*, seeds: Sequence[int] | None = None, tasks: Sequence[str] = (), keep: Callable[[Outcome], None] = lambda _: None) -> Outcome:
    """Run every task and seed asked for; what earlier runs found of others is kept.

    Raises:
        DataMissing: without the benchmark data.
    """
    numbers = earlier_numbers(NAME)
    cells: dict[str, Any] = numbers.get("cells", {})
    for task in TASKS:
        if tasks and task.name not in tasks:
            continue
        for seed in SEEDS if seeds is None else seeds:
            found: dict[str, Any] = {}
            for part in cell(task, seed):
                found |= part
                cells.setdefault(task.name, {})[str(seed)] = found
                keep(outcome_of(cells, numbers.get("speed")))
    if not tasks or erase_speed.NAME in tasks:
        numbers["speed"] = erase_speed.measure()
    return outcome_of(cells, numbers.get("speed"))


def cell(task: Task, seed: int) -> Iterator[dict[str, Any]]:
    """Train a network for the task, apply every method, and judge each by fresh probes; each yielded once it is."""
    rows = task.read(seed)
    net = build(rows.architecture, seed)
    train(net, rows.core.samples, rows.training)
    vanilla = judged(task, rows, extended(net, Adapter(kind="identity"), seed=0))
    _said(f"{task.name}, seed {seed}: {VANILLA}", vanilla)
    information = {"core": label_information(rows.core, task.values), "audit": label_information(rows.audit, task.values)}
    yield {VANILLA: vanilla, "information": information, "where": where()}
    strong: Network | None = None
    of_strong: dict[str, Any] = {}
    for name, work in methods(task, rows, seed).items():
        watch = Last()
        (out, own), spent = once(partial(work, net, watch, strong))
        found = judged(task, rows, out) | {"own": own, "seconds": spent}
        if name == STRONG:
            strong, of_strong = out, found
        if name == LAST and own is None:
            found |= {"own": of_strong["own"], "seconds": spent + of_strong["seconds"]}
        _said(f"  {name}, {spent:.0f} s", found)
        yield {name: found}


def _said(what: str, found: Mapping[str, Any]) -> None:
    progress(f"{what}: {found['leakage']:.4f} nat, accuracy {found['usual']:.4f}, balanced {found['balanced']:.4f}")


Work = Callable[[Network, Last, Network | None], tuple[Network, float | None]]


def methods(task: Task, rows: Rows, seed: int) -> dict[str, Work]:
    """Return what each method does with a trained network, and its own figure in nats."""
    core, values, count = rows.core, task.values, len(rows.core)
    scope: Scope = "network" if task.scope == "network" else "bottleneck"
    paper = replace(irene.PAPER, epochs=PAPER_EPOCHS[scope], rate=0.02)
    strong = irene.strong(count, scope=scope, gamma=5.0 if scope == "network" else 3.0, biased=is_biased(core, values))
    steps = max(8, min(60, math.ceil(1000 * 256 / count)))

    def by_irene(how: irene.Irene) -> Work:
        def work(net: Network, watch: Last, _: Network | None) -> tuple[Network, float | None]:
            out = irene.erase(net, core, values, how, scope=scope, seed=seed, watch=watch)
            return out, own_figure(out, watch.state, how.head, rows.audit, values)

        return work

    def by_lnl(net: Network, watch: Last, _: Network | None) -> tuple[Network, float | None]:
        how = lnl.Lnl(epochs=12 if scope == "network" else 20)
        out = lnl.erase(net, core, values, how, scope=scope, seed=seed, watch=watch)
        return out, own_figure(out, watch.state, how.head, rows.audit, values)

    def by_bits(net: Network, watch: Last, _: Network | None) -> tuple[Network, float | None]:
        how = quantized.Quantized(balanced=True, epochs=steps)
        out = rekeyed(quantized.erase(net, core, values, how, scope="bottleneck", seed=seed, watch=watch), KEY)
        judge = tested(rows.audit)
        theta = quantized.theta_of(out, judge.samples.inputs)
        return out, code_information(theta, judge.values, values, balance(judge, values)).stated * LN2

    def by_leace(net: Network, _: Last, __: Network | None) -> tuple[Network, float | None]:
        return leace.erase(net, core, values, leace.Leace(balanced=True)), None

    def afterwards(net: Network, watch: Last, erased: Network | None) -> tuple[Network, float | None]:
        """After a network trained through; at the bottleneck after a code wide enough that the task outlives the directions taken."""
        own = None
        if scope == "bottleneck":
            erased, own = by_irene(replace(strong, code=WIDE, gamma=10.0))(net, watch, None)
        assert erased is not None
        return leace.erase(erased, core, values, leace.Leace(balanced=True)), own

    def by_learning_again(net: Network, watch: Last, _: Network | None) -> tuple[Network, float | None]:
        out, own = by_irene(irene.relearning(count))(net, watch, None)
        return noisy_enough(task, rows, out), own

    again = {AGAIN: by_learning_again} if scope == "network" and is_biased(core, values) else {}
    return {**again, PAPER: by_irene(paper), STRONG: by_irene(strong), LNL: by_lnl, QUANTIZED: by_bits, LEACE: by_leace, LAST: afterwards}


def noisy_enough(task: Task, rows: Rows, net: Network) -> Network:
    """Serve with the least noise that hides the attribute from probes which learn on a quarter of the audit rows and are judged on another.

    Both quarters are of the half that probes learn on later: the rows that the result is judged on choose nothing.
    """
    half = len(rows.audit) // 2
    for sigma in NOISES:
        noisy = with_noise(net, sigma, KEY)
        if (found := probed(task, rows, served(noisy, rows.audit), half // 2, half)).upper <= LITTLE * found.entropy:
            break
    progress(f"    noise {sigma:g}: on the validation half {found.leakage:.4f} nat, upper limit {found.upper:.4f}")
    return noisy


def tested(audit: Attributed) -> Attributed:
    """The half of the audit rows that is judged on."""
    return audit.select(torch.arange(len(audit) // 2, len(audit)))


def served(net: Network, rows: Attributed) -> Tensor:
    return bottleneck_values(net, rows.samples.inputs, links=len(net.links))


def own_figure(net: Network, state: dict[str, Tensor], kind: heads.HeadKind, audit: Attributed, values: int) -> float:
    """What the method's own heads answer about held-out rows, in nats: shown beside the fresh probes, never believed."""
    judge = tested(audit)
    features, weights = served(net, judge), balance(judge, values)
    own = heads.of_state(state, kind, features.shape[1], values)
    return max(float(answered(head(features), judge.values, weights)) for head in own) * math.log(values)


def judged(task: Task, rows: Rows, net: Network) -> dict[str, Any]:
    """Return fresh-probe leakage with its limits, and accuracies."""
    audit = rows.audit
    found = probed(task, rows, served(net, audit), len(audit) // 2, len(audit))
    right = (net(audit.samples.inputs).argmax(1) == audit.samples.labels).double()
    weights = balance(audit, task.values).double()
    return {
        "leakage": found.leakage, "upper": found.upper, "best": found.best.name, "n": found.n,
        "probes": {one.name: one.v_information for one in found.probes}, "entropy": found.entropy,
        "usual": float((net(rows.usual.samples.inputs).argmax(1) == rows.usual.samples.labels).double().mean()),
        "balanced": float((weights * right).sum() / weights.sum()), "own": None, "seconds": None,
    }  # fmt: skip


def probed(task: Task, rows: Rows, values: Tensor, learnt: int, end: int) -> Probed:
    """Let fresh probes learn on so many audit rows, and judge them on those from there to the end."""
    held = [Held(values[some], rows.audit.values[some], rows.audit.samples.labels[some]) for some in (slice(0, learnt), slice(learnt, end))]
    return probe(*held, values=task.values, classes=rows.architecture.classes, seed=0, resamples=RESAMPLES, conditional=False)


def outcome_of(cells: dict[str, Any], speed: dict[str, Any] | None) -> Outcome:
    """Write down what was found."""
    tables = [table_of(task, cells[task.name]) for task in TASKS if task.name in cells]
    goals = goals_of(cells)
    if speed:
        tables += [erase_speed.table_of(speed), erase_speed.shares_of(speed)]
        goals.append(erase_speed.goal_of(speed))
    return Outcome(NAME, "Attribute removal", tuple(tables), tuple(goals), {"cells": cells, "speed": speed})


def table_of(task: Task, found: dict[str, Any]) -> Table:
    seeds = sorted(found, key=int)
    rows = []
    for name in METHODS:
        having = [seed for seed in seeds if name in found[seed]]
        cells = [found[seed][name] for seed in having]
        if not cells:
            continue
        some = "" if having == seeds else f" (seed{'s' if len(having) > 1 else ''} {', '.join(having)})"
        rows.append((
            name + some, _mean(cells, "leakage", "{:.3f}"), _upper(cells), "/".join(sorted({c["best"] for c in cells})),
            _mean(cells, "own", "{:.3f}"), _mean(cells, "usual", "{:.2f}", 100), _mean(cells, "balanced", "{:.2f}", 100),
            _mean(cells, "seconds", "{:.0f}"),
        ))  # fmt: skip
    information = [fmean(found[seed]["information"][part] for seed in seeds) for part in ("core", "audit")]
    first = found[seeds[0]][VANILLA]
    note = (
        f"{task.told[0].upper()}{task.told[1:]}; seeds {', '.join(seeds)}. Leakage: V-information of the best of three fresh probes in "
        f"nats, mean +- standard deviation over seeds, balanced over (label, value): H(v) = {first['entropy']:.3f}, {first['n']} balanced "
        f"test rows; its 95 % upper limit is the largest over seeds. Own figure: the method's head, balanced too; of the quantised "
        f"bottleneck its computed information. I(y; v) of the rows as they come: {information[0]:.3f} core, {information[1]:.3f} audit. "
        f"Accuracy in %. {_of_noise(found[seeds[0]])}Measured on: {'; '.join(sorted({found[seed]['where'] for seed in seeds}))}."
    )
    headings = ("method", "leakage", "upper", "best probe", "own figure", "accuracy, as they come", "accuracy, balanced", "seconds")
    return Table(task.name, headings, tuple(rows), note)


def _of_noise(cell: Mapping[str, Any]) -> str:
    least = f"Noise: the least of {', '.join(f'{sigma:g}' for sigma in NOISES)}"
    return f"{least} with which the upper limit of probes on the validation half is at most {LITTLE:g} H(v). " if AGAIN in cell else ""


def _upper(cells: Sequence[Mapping[str, Any]]) -> str:
    """The largest upper limit; V-information cannot exceed H(v), and nor can its limit."""
    most = max(cells, key=lambda cell: float(cell["upper"]))
    return f"{most['entropy']:.3f} (cut at H(v))" if most["upper"] >= most["entropy"] else f"{most['upper']:.3f}"


def _mean(cells: Sequence[Mapping[str, Any]], name: str, form: str, scale: float = 1.0) -> str:
    values = [scale * cell[name] for cell in cells if cell[name] is not None]
    if not values:
        return ""
    spread = f" +- {form.format(stdev(values))}" if len(values) > 1 and name != "seconds" else ""
    return form.format(fmean(values)) + spread


def goals_of(cells: dict[str, Any]) -> list[Goal]:
    """Compare means over seeds with what was aimed at."""
    goals: list[Goal] = []
    for task in ("adult-sex", "compas"):
        if seeds := [found for found in cells.get(task, {}).values() if STRONG in found]:
            gone = 1 - fmean(s[STRONG]["leakage"] for s in seeds) / fmean(s[VANILLA]["leakage"] for s in seeds)
            cost = 100 * fmean(s[VANILLA]["usual"] - s[STRONG]["usual"] for s in seeds)
            goals.append(Goal(f"{task}: IRENE, strong: share of V-information removed", ">= 90 %", f"{100 * gone:.1f} %", gone >= 0.9))
            goals.append(Goal(f"{task}: points of accuracy that it costs", "<= 1", f"{cost:.2f}", cost <= 1))
    of_seed = {seed: found for seed, found in cells.get("biased-mnist-.99", {}).items() if AGAIN in found}
    if seeds := list(of_seed.values()):
        gain = 100 * fmean(s[AGAIN]["balanced"] - s[VANILLA]["balanced"] for s in seeds)
        gone = 1 - fmean(s[AGAIN]["leakage"] for s in seeds) / fmean(s[VANILLA]["leakage"] for s in seeds)
        how = f"{AGAIN}, seeds {', '.join(sorted(of_seed, key=int))}"
        goals.append(Goal(f"biased-mnist-.99: points of unbiased accuracy gained, {how}", ">= 5", f"{gain:.1f}", gain >= 5))
        goals.append(Goal(f"biased-mnist-.99: share of V-information removed, {how}", ">= 90 %", f"{100 * gone:.1f} %", gone >= 0.9))
    every = [s[QUANTIZED] for found in cells.values() for s in found.values() if QUANTIZED in s]
    if every:
        over = max((one["leakage"] - one["own"]) / LN2 for one in every)
        goals.append(Goal("quantised: measured above computed information, bits, worst", "<= 0.02", f"{over:.3f}", over <= 0.02))
    return goals
