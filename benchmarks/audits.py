"""What each audit costs at 10,000 rows of Fashion-MNIST, in processor seconds of one thread, and what they are spent on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.data import draw, images
from benchmarks.machine import one_thread
from benchmarks.outcome import Goal, Outcome, Table, progress, seconds
from benchmarks.setting import FORMS, Setting, prepare
from models.audit import decoder, distance, interval, membership, shadows
from models.audit.calibration import calibration_error
from models.audit.decoder import Decoder, Scored
from models.audit.differencing import differencing
from models.audit.permuted import permuted
from models.audit.planted import planted
from models.audit.probe import Held, probe
from models.audit.readers import READERS
from models.audit.utility import utility
from models.data import Samples
from models.forget.refit import weights_of
from models.linear.core import encode, logits, logits_of_rows
from models.linear.fit import trained
from models.linear.statistics import Rows, Statistics, add, subtract
from models.progress import never, silent
from models.train import Training, default_training
from workers.beyond import MOST_JUDGED
from workers.differenced import GROUPS, MOST_KEPT
from workers.halves import DIVISIONS, of_fixed_features
from workers.judging import bottleneck
from workers.strips import DRAWS
from workers.telling import NOTHING, SHARE, THUMBNAIL, tell, thumbnail

NAME = "audits"
MINUTES = 16
CORE, USER, AUDIT = 2000, 10_000, 10_000
FORGOTTEN, CANARIES = 100, 50
SIGMA = 1.0
LIMIT = 60.0
"""Processor seconds that a membership attack with 256 shadows may take."""


@dataclass(frozen=True)
class Scale:
    """How much there is of everything."""

    core: int = CORE
    user: int = USER
    audit: int = AUDIT
    forgotten: int = FORGOTTEN
    groups: int = shadows.GROUPS
    steps: int = 800
    judged: int = MOST_JUDGED


@dataclass
class Bill:
    """Processor seconds, by audit and what they were spent on."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def of(self, audit: str, what: str, work: Callable[[], Any]) -> Any:
        """Do the work and write down what it took."""
        progress(f"{NAME}: {audit}, {what}")
        begun = time.process_time()
        result = work()
        self.rows.append({"audit": audit, "what": what, "seconds": time.process_time() - begun})
        return result

    def total(self, audit: str) -> float:
        return float(sum(row["seconds"] for row in self.rows if row["audit"] == audit))


@dataclass(frozen=True)
class Parts:
    """A fitted model and a request: which user rows went, which stay."""

    setting: Setting
    sums: Statistics
    """Over core and user rows."""
    gone: Rows
    kept: Rows
    labels: Tensor
    """`[n]` of all user rows, the forgotten first."""

    @property
    def left(self) -> Statistics:
        return subtract(self.sums, self.gone)


def run(scale: Scale | None = None) -> Outcome:
    """Measure on Fashion-MNIST.

    Raises:
        DataMissing: without the benchmark data.
    """
    scale = scale or Scale()
    train, test = draw(images("fashion_mnist", "train"), (scale.core + scale.user + scale.audit, 1000), seed=0)
    return measured(train, test, scale)


def measured(data: Samples, test: Samples, scale: Scale) -> Outcome:
    """Measure on any images, of which the first are core and user rows and the others are held out for audits."""
    held = data.select(torch.arange(scale.core + scale.user, len(data)))
    known = data.select(torch.arange(scale.core + scale.user))
    setting = prepare(FORMS[0], known, test, core_rows=scale.core, user_rows=scale.user, training=Training(epochs=FORMS[0].core_epochs))
    bill = Bill()
    with one_thread():
        parts = split(setting, scale.forgotten)
        of_membership(bill, parts, scale)
        of_answers(bill, parts, held)
        of_probes(bill, setting, known.select(torch.arange(scale.core)), held)
        found = of_decoder(bill, parts, held, scale)
    numbers = {"scale": vars(scale), "d": setting.core.d, "shape": list(data.inputs.shape[1:]), "bill": bill.rows, "decoder": found}
    return outcome_of(bill, numbers, scale)


def split(setting: Setting, forgotten: int) -> Parts:
    """Forget the first rows."""
    rows, labels = setting.rows, setting.user.labels
    gone, kept = (Rows(rows.features[some], rows.targets[some]) for some in (slice(0, forgotten), slice(forgotten, None)))
    return Parts(setting, add(setting.begun, rows), gone, kept, labels)


def of_membership(bill: Bill, parts: Parts, scale: Scale) -> None:
    """The attack of a request's membership audit, on the version before."""
    core, k = parts.setting.core, len(parts.gone)
    aimed = shadows.Targets(parts.gone, parts.labels[:k])
    canaries = shadows.mislabelled(core, parts.kept, parts.labels[k:], seed=0, count=CANARIES)
    play = partial(shadows.shadows, core, parts.left, parts.kept, aimed, canaries, seed=0, groups=scale.groups)
    played = bill.of("membership", f"{2 * scale.groups} refits", play)
    scores = aimed.scores(core, weights_of(core, parts.sums))
    bill.of("membership", "the attack on the forgotten, with intervals", lambda: membership.attack(scores, played.targets, seed=0))
    bill.of("membership", "the attack on the canaries", lambda: membership.attack(played.planted, played.canaries, seed=0))


def of_answers(bill: Bill, parts: Parts, held: Samples) -> None:
    """What is read from answers: utility, distance, and the attacker who holds both versions."""
    core, k = parts.setting.core, len(parts.gone)
    before, after = weights_of(core, parts.sums), weights_of(core, parts.left)
    answers = bill.of("utility", "answers to the audit rows", lambda: logits(core, before, held.inputs))
    bill.of("utility", "accuracy by class, calibration", lambda: (utility(answers, held.labels), calibration_error(answers, held.labels)))
    bill.of("distance", "answers of a refit, KL and L1", lambda: distance.outputs(answers, logits(core, after, held.inputs)))
    halved = partial(of_fixed_features, core, parts.setting.begun, parts.setting.rows)
    refits = bill.of("utility", f"{2 * DIVISIONS} refits on halves", halved)
    read = encode(core, held.inputs, held.labels)
    bill.of("utility", "their answers", lambda: [logits_of_rows(core, one, read, held.labels) for one in refits.weights])
    loss, rate = distance.squared_loss(core, parts.gone)
    goal = loss(before)[0]
    bill.of("distance", "learning the forgotten again", lambda: distance.relearn(after, loss, goal, rate=rate))
    some = slice(0, k + MOST_KEPT)
    rows = Rows(parts.setting.rows.features[some], parts.setting.rows.targets[some])
    labels, aimed = parts.labels[some], torch.arange(len(rows)) < k

    def told(weights: Tensor) -> Tensor:
        return logits_of_rows(core, weights, rows, labels)

    def others(number: int) -> Tensor:
        chosen = torch.randperm(len(parts.kept), generator=torch.Generator().manual_seed(number))[:k]
        return weights_of(core, subtract(parts.sums, Rows(parts.kept.features[chosen], parts.kept.targets[chosen])))

    without = bill.of("differencing", f"{GROUPS} refits without others", lambda: [others(number) for number in range(GROUPS)])
    bill.of(
        "differencing", f"{GROUPS + 1} attacks", lambda: [differencing(told(before), told(one), labels, aimed) for one in (after, *without)]
    )


def of_probes(bill: Bill, setting: Setting, core_rows: Samples, held: Samples) -> None:
    """Fresh probes of an attribute: whether an image is brighter than the middle one of its label. The core is trained again by default."""
    net, values = setting.core.net, brighter(held)
    assert net is not None, "a form is a network"
    features = bill.of("probes", "reading the bottleneck", lambda: bottleneck(net, held))
    half = len(held) // 2
    learn, judge = (Held(features[some], values[some], held.labels[some]) for some in (slice(0, half), slice(half, None)))
    sizes: dict[str, Any] = {"values": 2, "classes": int(held.labels.max()) + 1, "seed": 0}
    for reader in READERS:
        bill.of("probes", f"{reader}, without and with the label", partial(probe, learn, judge, **sizes, readers=(reader,)))
    bill.of("probes", "planted leaks", lambda: planted(learn, judge, **sizes, budget=0.05))
    bill.of("probes", "the null: 5 deals of the values", lambda: permuted(learn, judge, **sizes))
    how = default_training(net.architecture, len(core_rows))
    train = partial(trained, net.architecture, core_rows, how, silent, never)
    again = bill.of("probes", f"the core trained again, {how.epochs} epochs", train)
    bill.of("probes", "reading its bottleneck", lambda: bottleneck(again, held))
    bill.of("interval", "transport and Monte Carlo of a noisy bottleneck", lambda: interval.noisy(judge, None, sigma=SIGMA, **sizes))


def brighter(samples: Samples) -> Tensor:
    """`[n]` 0 or 1, half of each label's rows being 1."""
    light = samples.inputs.float().flatten(1).mean(dim=1)
    values = torch.zeros(len(samples), dtype=torch.int64)
    for label in torch.unique(samples.labels):
        rows = samples.labels == label
        values[rows] = (light[rows] > light[rows].median()).long()
    return values


def of_decoder(bill: Bill, parts: Parts, held: Samples, scale: Scale) -> dict[str, Any]:
    """The decoders that an audit of a version trains: of one budget, after a first that is told nothing; and samples by one of them."""
    core, half = parts.setting.core, len(held) // 2
    learn, judge = held.inputs[:half], held.inputs[half : half + scale.judged]
    served = {"answers": weights_of(core, parts.sums), "answers of a refit without some": weights_of(core, parts.left)}
    for number, weights in enumerate(of_fixed_features(core, parts.setting.begun, parts.setting.rows).weights[:2], start=1):
        served[f"answers of a refit on half, {number}"] = weights
    known, of_judged = ({name: logits(core, one, some).float() for name, one in served.items()} for some in (learn, judge))
    for told, some in ((known, learn), (of_judged, judge)):
        told["answers to others"] = told["answers"].roll(1, dims=0)
        told[THUMBNAIL] = thumbnail(some)
    said = f"training: {scale.steps} steps told nothing, then {scale.steps // SHARE} for each of {len(known) + 1} decoders"
    fitted: dict[str, Decoder] = bill.of("decoder", said, lambda: tell(learn, known, scale.steps, silent))
    scores: dict[str, Scored] = {}

    def score() -> None:
        scores.update({name: decoder.nll(one, judge, of_judged.get(name)) for name, one in fitted.items()})

    bill.of("decoder", f"scoring {len(judge)} images by each", score)
    shown = of_judged["answers"][:5].repeat(DRAWS, 1)
    bill.of("decoder", f"{len(shown)} samples", lambda: decoder.sample(fitted["answers"], shown))
    gains = {name: decoder.gain(scores[NOTHING], scores[name]) for name in of_judged}
    return {"bits": {name: score.bits for name, score in scores.items()},
            "saved": {name: [found.value, *found.ci95] for name, found in gains.items()}}  # fmt: skip


def outcome_of(bill: Bill, numbers: dict[str, Any], scale: Scale) -> Outcome:
    """Write the tables and judge the goal."""
    audits = list(dict.fromkeys(row["audit"] for row in bill.rows))
    rows: list[tuple[str, ...]] = []
    for audit in audits:
        own = [row for row in bill.rows if row["audit"] == audit]
        rows += [(audit if place == 0 else "", row["what"], seconds(row["seconds"])) for place, row in enumerate(own)]
        rows += [("", "all of it", seconds(bill.total(audit)))] if len(own) > 1 else []
    note = (
        f"{scale.core:,} core rows, {scale.user:,} user rows, {scale.forgotten} of them forgotten, d = {numbers['d']:,}; {scale.audit:,} "
        f"audit rows, half of which train probes and decoders; the attribute: whether an image is brighter than the "
        "middle one of its label. The probes' second null trains and reads two such cores, and probes each. "
        "Processor seconds of one thread, one run; loading rows and drawing pictures are not among them."
    )
    found = numbers["decoder"]
    told = tuple(
        (name, f"{bits:.3f}", "" if name == NOTHING else "{:.4f} ({:.4f} to {:.4f})".format(*found["saved"][name]))
        for name, bits in found["bits"].items()
    )
    height, width = numbers["shape"][1:]
    decoded = f"{scale.judged} images that no decoder was trained on. Saved: mean and paired bootstrap, 95 %. An estimate, and no bound."
    spent = bill.total("membership")
    goal = Goal(f"membership with {2 * scale.groups} shadows, processor seconds", f"< {LIMIT:.0f} s", seconds(spent), spent < LIMIT)
    tables = (
        Table("Seconds", ("audit", "spent on", "seconds"), tuple(rows), note),
        Table(f"What decoders of {height} x {width} pixels find", ("told", "bits a dimension", "saved, nats a dimension"), told, decoded),
    )
    return Outcome(NAME, "Audits", tables, (goal,), numbers)
