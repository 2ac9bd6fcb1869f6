"""The two speeds of a removal: an adapter on cached activations, and the whole network; seconds an epoch, and to the same leakage."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from typing import Any

import torch
from torch import Tensor

from benchmarks.biased import Sizes, mnist
from benchmarks.machine import where
from benchmarks.outcome import Goal, Table, progress, seconds, times
from models.audit.probe import Held, probe
from models.erase import irene
from models.erase.attribute import Attributed
from models.erase.scope import Scope, bottleneck_values, extended
from models.linear.core_file import load_network
from models.linear.features import BATCH
from models.nets import Adapter, Architecture, Network, build
from models.train import Training, train

NAME = "erase-speed"
RHO = 0.1  # colours drawn even: a frozen backbone has then learnt the task, and both scopes can remove
CORE, AUDIT = 1500, 1600
GAMMA = 10.0
SCOPES: tuple[Scope, ...] = ("bottleneck", "network")

KEPT = 0.02
"""Accuracy that a point may have lost to be compared: a code that says nothing at all leaks nothing and is of no use."""

WANTED = 20.0
SHARES = (0.5, 0.7, 0.8, 0.9)
"""Of the leakage before, as marks on the way."""


@dataclass
class Stopwatch:
    """Seconds of processor time up to the end of each epoch, and the network there; its own work does not count."""

    begun: float = field(default_factory=time.process_time)
    away: float = 0.0
    ends: list[float] = field(default_factory=list)
    states: list[dict[str, Tensor]] = field(default_factory=list)

    def epoch(self, number: int, state: Mapping[str, Tensor]) -> bool:
        now = time.process_time()
        self.ends.append(now - self.begun - self.away)
        self.states.append({name[len("net.") :]: value for name, value in state.items() if name.startswith("net.")})
        self.away += time.process_time() - now
        return False


def measure() -> dict[str, Any]:
    """Remove the colour of digits from a residual network in both scopes and follow the leakage, epoch by epoch."""
    data = mnist(RHO, Sizes(core=CORE, user=1, audit=AUDIT), seed=0)
    architecture = Architecture(name="resnet20", input_shape=(3, 28, 28), classes=10)
    net = build(architecture, 0)
    train(net, data.core.samples, Training(epochs=4, augment=False, rate=0.1))
    start = extended(net, Adapter(kind="identity"), seed=0)
    raw = bottleneck_values(start, data.audit.samples.inputs)
    leaked, right = read(start, raw, data.audit)
    progress(f"{NAME}: vanilla {leaked:.3f} nat, accuracy {right:.3f}")
    found: dict[str, Any] = {"before": leaked, "right": right, "where": where()}
    for scope in SCOPES:
        watch = Stopwatch()
        out = irene.erase(net, data.core, 10, irene.strong(CORE, scope=scope, gamma=GAMMA), scope=scope, seed=0, watch=watch)
        lengths = [after - first for first, after in pairwise(watch.ends)]
        found[scope] = {"epoch": sorted(lengths)[len(lengths) // 2], "points": []}
        for number, held in enumerate(watch.states):
            state = load_network(out.architecture, held)
            values = raw if scope == "bottleneck" else bottleneck_values(state, data.audit.samples.inputs)
            leaked, right = read(state, values, data.audit)
            point = {"epochs": number + 1, "end": watch.ends[number], "leakage": leaked, "right": right}
            found[scope]["points"].append(point)
            progress(f"{NAME}: {scope}, epoch {number + 1}: {point['end']:.1f} s, {leaked:.3f} nat, accuracy {right:.3f}")
    return found


def compared(speed: dict[str, Any]) -> tuple[float, dict[str, dict[str, Any]]]:
    """Return the leakage that both scopes reach at no more than `KEPT` of accuracy, and the first point of each that does."""
    points = {scope: [p for p in speed[scope]["points"] if p["right"] >= speed["right"] - KEPT] for scope in SCOPES}
    target = max(min((p["leakage"] for p in some), default=inf) for some in points.values())
    return target, {scope: next((p for p in some if p["leakage"] <= target), speed[scope]["points"][-1]) for scope, some in points.items()}


def read(net: Network, raw: Tensor, audit: Attributed) -> tuple[float, float]:
    """Return what fresh linear and MLP probes find behind the adapter, in nats, and the share of rows named rightly.

    Args:
        raw: `[n, d]`, before the adapter.
    """
    with torch.no_grad():
        values = torch.cat([net.links(some) for some in torch.split(raw, BATCH)])
        shape = net.run(audit.samples.inputs[:1], net.before).shape[1:]
        right = net.run(values.view(-1, *shape), net.after).argmax(dim=1) == audit.samples.labels
    half = len(audit) // 2
    parts = [
        Held(values[some], audit.values[some], audit.samples.labels[some]) for some in (torch.arange(half), torch.arange(half, len(audit)))
    ]
    found = probe(*parts, values=10, classes=10, seed=0, resamples=20, conditional=False, readers=("linear", "mlp"))
    return found.leakage, float(right.double().mean())


def table_of(speed: dict[str, Any]) -> Table:
    rows = []
    target, points = compared(speed)
    for scope, reached in points.items():
        least = min(speed[scope]["points"], key=lambda point: float(point["leakage"]))
        rows.append((
            scope, seconds(speed[scope]["epoch"]), seconds(reached["end"]), f"{reached['epochs']}", f"{reached['leakage']:.3f}",
            f"{100 * reached['right']:.1f}", f"{least['leakage']:.3f}", f"{100 * least['right']:.1f}",
        ))  # fmt: skip
    note = (
        f"Colour of {CORE:,} evenly coloured digits, resnet20, strong setting, gamma {GAMMA:g}, one run, processor "
        f"seconds of one thread. Before: {speed['before']:.3f} nat at {100 * speed['right']:.1f} % accuracy. Reached: from "
        f"the start (encoding included) to the end of the first probed epoch with at most {target:.3f} nat by fresh linear and MLP probes, "
        f"the larger of the two least, and at most {100 * KEPT:g} points of accuracy lost; probed after every epoch. Accuracy in %, "
        f"on the {AUDIT:,} audit rows. Measured on: {speed['where']}."
    )
    headings = ("scope", "an epoch", "reached", "epochs", "leakage", "accuracy", "least leakage", "accuracy there")
    return Table("bottleneck and network", headings, tuple(rows), note)


def shares_of(speed: dict[str, Any]) -> Table:
    """How long each scope takes until a share of the leakage is gone, at no more than `KEPT` of accuracy: the ratio hangs on the share."""
    rows = []
    for share in SHARES:
        ends = {}
        for scope in SCOPES:
            most, least = (1 - share) * speed["before"], speed["right"] - KEPT
            good = [p for p in speed[scope]["points"] if p["leakage"] <= most and p["right"] >= least]
            ends[scope] = good[0]["end"] if good else None
        cells = [seconds(end) if end is not None else "never" for end in ends.values()]
        quick, slow = (ends[scope] for scope in SCOPES)
        rows.append((f"{100 * share:.0f} %", *cells, times(slow / quick) if quick is not None and slow is not None else ""))
    return Table("bottleneck and network: seconds until a share is removed", ("share", *SCOPES, "ratio"), tuple(rows), "From the same run.")


def goal_of(speed: dict[str, Any]) -> Goal:
    target, points = compared(speed)
    ratio = points["network"]["end"] / points["bottleneck"]["end"] if target < inf else 0.0
    return Goal("the bottleneck's speed to the same leakage", f">= {WANTED:.0f}x", times(ratio), ratio >= WANTED)
