"""The two speeds of a removal: an adapter on cached activations, and the whole network; seconds an epoch, and to the same leakage."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from benchmarks.biased import Sizes, mnist
from benchmarks.outcome import Goal, Table, progress, seconds, times
from models.audit.probe import Held, probe
from models.erase import irene
from models.erase.attribute import Attributed
from models.erase.scope import Scope, bottleneck_values, extended
from models.linear.core_file import load_network
from models.nets import Adapter, Architecture, Network, build
from models.train import Training, train

NAME = "erase-speed"
RHO = 0.1  # colours drawn even: a frozen backbone has then learnt the task, and both scopes can remove
CORE, AUDIT = 1500, 1600
EPOCHS: dict[Scope, int] = {"bottleneck": 40, "network": 5}
WANTED = 20.0


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
    before = leakage(extended(net, Adapter(kind="identity"), seed=0), data.audit)
    progress(f"{NAME}: vanilla {before:.3f} nat")
    found: dict[str, Any] = {"before": before}
    for scope, epochs in EPOCHS.items():
        how = replace(irene.strong(CORE, scope=scope, gamma=10.0), epochs=epochs, batch=128)
        watch = Stopwatch()
        out = irene.erase(net, data.core, 10, how, scope=scope, seed=0, watch=watch)
        curve = [leakage(load_network(out.architecture, state), data.audit) for state in watch.states]
        lengths = [after - first for first, after in pairwise(watch.ends)]
        found[scope] = {"ends": watch.ends, "leakage": curve, "epoch": sorted(lengths)[len(lengths) // 2]}
        progress(f"{NAME}: {scope}: {found[scope]['epoch']:.2f} s an epoch, leakage {min(curve):.3f}")
    target = max(min(found[scope]["leakage"]) for scope in EPOCHS)
    for scope in EPOCHS:
        reached = next(i for i, value in enumerate(found[scope]["leakage"]) if value <= target)
        found[scope]["reached"] = found[scope]["ends"][reached]
    return found | {"target": target}


def leakage(net: Network, audit: Attributed) -> float:
    """Return what fresh linear and MLP probes find, in nats."""
    values = bottleneck_values(net, audit.samples.inputs, links=len(net.links))
    half = len(audit) // 2
    parts = [
        Held(values[some], audit.values[some], audit.samples.labels[some]) for some in (torch.arange(half), torch.arange(half, len(audit)))
    ]
    found = probe(*parts, values=10, classes=10, seed=0, resamples=20, conditional=False, readers=("linear", "mlp"))
    return found.leakage


def table_of(speed: dict[str, Any]) -> Table:
    rows = tuple(
        (scope, seconds(speed[scope]["epoch"]), seconds(speed[scope]["reached"]), f"{min(speed[scope]['leakage']):.3f}") for scope in EPOCHS
    )
    note = (
        f"Colour of {CORE:,} evenly coloured digits, resnet20, strong setting, one run, processor seconds; before: {speed['before']:.3f} "
        f"nat. Reached: from the start (encoding included) to the end of the first epoch with at most {speed['target']:.3f} nat by fresh "
        f"linear and MLP probes, the larger of the two best."
    )
    return Table("bottleneck and network", ("scope", "an epoch", "reached", "least leakage"), rows, note)


def goal_of(speed: dict[str, Any]) -> Goal:
    ratio = speed["network"]["reached"] / speed["bottleneck"]["reached"]
    return Goal("the bottleneck's speed to the same leakage", f">= {WANTED:.0f}x", times(ratio), ratio >= WANTED)
