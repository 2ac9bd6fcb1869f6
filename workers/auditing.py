"""The audits of a version, one function each: what is measured, against which null, and whether the measure could have said no."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from models.audit import distance as distances
from models.audit import findings, interval
from models.audit.calibration import calibration_error
from models.audit.findings import SERVED
from models.audit.permuted import permuted
from models.audit.planted import planted
from models.audit.probe import Held, probe
from models.audit.utility import accuracy, utility
from models.forget.refit import weights_of
from models.guarantee import Measured
from models.linear.core import encode, logits_of_rows
from models.linear.statistics import Rows, subtract
from models.progress import Progress
from service.policies import AUDITS
from workers import audit_figures
from workers.attributed import material, tables
from workers.audited import Audited
from workers.bounds import interval_of
from workers.failure import Failure
from workers.judging import SEED, bottleneck


@dataclass
class Found:
    """What an audit leaves."""

    measured: list[Measured]
    files: dict[str, bytes] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)
    """Files that show samples: destroyed as soon as the model forgets anything."""


Audit = Callable[[Audited, Mapping[str, Any], Progress], Found]


def measure_utility(version: Audited, task: Mapping[str, Any], progress: Progress) -> Found:
    """Accuracy over all audit rows of the final half and by class, and calibration."""
    logits, labels = version.answers(version.decides), version.decides.labels
    counted = utility(logits, labels)
    note = "Cells of fewer than 20 rows are withheld: one person's accuracy is personal data."
    if counted.overall is None:
        raise Failure("audit_rows", "Fewer than 20 audit rows of the final half: an accuracy over so few is withheld.")
    found = [findings.shown("utility", "accuracy", counted.overall.value, counted.overall.n, ci95=counted.overall.ci95, note=note)]
    for name, cell in zip(version.classes, counted.by_class, strict=True):
        if cell is not None:
            found.append(findings.shown("utility", f"accuracy of class {name}", cell.value, cell.n, ci95=cell.ci95))
    error = calibration_error(logits, labels)
    if error is not None:
        found.append(findings.shown("utility", "calibration error", error, len(labels), note="0: as often right as it says it is."))
    return Found(found, {"utility.svg": audit_figures.classes(counted, version.classes)})


def measure_distance(version: Audited, task: Mapping[str, Any], progress: Progress) -> Found:
    """How far user samples moved the answers from the core's alone, beside two refits on a half of them each."""
    rows = version.decides
    ours, bare = version.answers(rows), version.bare(rows)
    apart = distances.outputs(ours, bare)
    if apart is None:
        raise Failure("audit_rows", "Fewer than 20 audit rows of the final half: distances over so few are withheld.")
    null = _halves(version) if version.core is not None else None
    note = "The reference is the distance between two refits, each without another half of the user samples: what retraining varies by."
    found = []
    for metric, value, other in (
        ("L1 of answers to the model without any user sample", apart.l1, null.l1 if null else None),
        ("KL, nats, from the model without any user sample", apart.kl, null.kl if null else None),
    ):
        found.append(findings.shown("distance", metric, value, apart.n, reference=other, note=note if null else ""))
    before, after = accuracy(bare, rows.labels), accuracy(ours, rows.labels)
    for name, cell in (("without any user sample", before), ("as it is", after)):
        if cell is not None:
            low, high = cell.ci95
            found.append(findings.shown("distance", f"error {name}", 1 - cell.value, cell.n, ci95=(1 - high, 1 - low)))
    return Found(found)


def _halves(version: Audited) -> distances.Outputs | None:
    held, rows = version.sums(), version.decides
    order = np.random.default_rng(SEED).permutation(len(held.users.ids))
    answers = []
    for half in (order[: len(order) // 2], order[len(order) // 2 :]):
        gone = torch.from_numpy(half)
        users = held.users.rows
        weights = weights_of(held.core, subtract(held.statistics, Rows(users.features[gone], users.targets[gone])))
        read = encode(held.core, rows.inputs, rows.labels)
        answers.append(logits_of_rows(held.core, weights, read, rows.labels))
    return distances.outputs(*answers)


def measure_probes(version: Audited, task: Mapping[str, Any], progress: Progress) -> Found:
    """Fresh probes of an attribute at what the version shows: its bottleneck, or of a linearised model its answers."""
    plan, shape, classes = version.plan, tuple(version.plan["dataset"]["shape"]), version.classes
    keep = {*version.chooses.ids, *version.decides.ids}
    # The attribute's values are those of the audit rows, by a pass of its own: `material` looks for them among rows to be trained on.
    blocks = [block for _, block in tables(plan, version.shelf, keep)]
    relabelled = [block.set_column(block.schema.get_field_index("role"), "role", _as_core(block)) for block in blocks]
    rows = material([*blocks, *relabelled], task["attribute"], data="core", shape=shape, classes=classes)
    core = version.core
    net = core.net if core is not None else None
    access = "the bottleneck's values" if net is not None else SERVED

    def read(samples: Any) -> Tensor:
        return bottleneck(net, samples) if net is not None else version.answers(samples).float()

    train, test = (Held(read(half.known.samples), half.known.values, half.known.samples.labels) for half in (rows.chooses, rows.decides))
    rules = AUDITS["audits"]["probes"]
    budget = float(rules["mostNats"])
    sizes: dict[str, Any] = {"values": len(rows.values), "classes": len(classes), "seed": SEED}
    try:
        found = probe(train, test, **sizes, progress=lambda part, done: progress(part, 0.2 * done))
        plants = planted(train, test, **sizes, budget=budget)
        null = permuted(train, test, **sizes, times=rules["permutations"], progress=lambda part, done: progress(part, 0.3 + 0.7 * done))
    except ValueError as error:
        raise Failure("audit_rows", f"The audit rows are too few for probes ({error}). Upload more with this attribute.") from error
    between = interval.trivial(found) if net is None else interval_of(net, rows, found, classes=len(classes))
    stated = findings.of_probes(found, plants, null, budget=budget, access=access) + findings.of_interval(between, found.n, access)
    files = {
        "probes.svg": audit_figures.probes(found, null, task["attribute"], budget, between),
        "probes.csv": audit_figures.probes_csv(found, null),
        "leakage-interval.csv": audit_figures.interval_csv(between),
    }
    return Found(stated, files)


def _as_core(block: Any) -> Any:
    return pa.array(["core"] * len(block), pa.string())


SAID = {
    "void": "Void: planted leaks went unseen, so nothing can be concluded.",
    "reported": "Reported; it decides nothing.",
    "passed": "Within the threshold, by an audit that saw what was planted for it.",
    "refused": "More than the threshold.",
}


def document(one: Measured) -> dict[str, Any]:
    """A measured value as an audit statement says it."""
    if one.void:
        answer = "void"
    elif one.threshold is None:
        answer = "reported"
    else:
        answer = "passed" if one.passed else "refused"
    power = None if one.power is None else {"planted": one.power.planted, "caught": one.power.caught}
    return {
        "audit": one.audit,
        "access": one.access,
        "metric": one.metric,
        "value": text(one.value),
        "ci95": None if one.ci95 is None else [text(bound) for bound in one.ci95],
        "n": one.n,
        "threshold": None if one.threshold is None else text(one.threshold),
        "null": None if one.null is None else {"mean": text(one.null[0]), "limit": text(one.null[1])},
        "reference": None if one.reference is None else text(one.reference),
        "power": power,
        "answer": answer,
        "says": one.note or SAID[answer],
    }


def text(value: float) -> str:
    """A decimal text of eight digits."""
    return f"{value:.8g}".replace("e+", "e") if value else "0"


def sealed(name: str, data: bytes, version: Audited, *, picture: bool) -> dict[str, Any]:
    """Store one file of the evidence."""
    stored = version.shelf.put_file(data) | ({"picture": True} if picture else {})
    assert stored["sha256"] == hashlib.sha256(data).hexdigest(), name
    return stored


def phase(name: str) -> str:
    """What progress calls an audit."""
    return f"audit: {name}"
