"""The probes of a version: what fresh readers find of an attribute, beside two nulls.

One null deals the values out anew, which is the readers' own bias. The other trains the version again from other seeds, and reads the
attribute from each: what the score varies by from training to training. Of a version whose answers are read, having no bottleneck of
features, these are refits on halves of the user samples. A network that was uploaded was trained elsewhere, and is not trained again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pyarrow as pa
from torch import Tensor

from models.audit import findings, interval
from models.audit.findings import SERVED
from models.audit.interval import Interval
from models.audit.permuted import RESAMPLES, permuted
from models.audit.planted import planted
from models.audit.probe import Held, Probed, probe
from models.data import Samples
from models.guarantee import Measured
from models.nets import Network
from models.progress import Progress
from service.policies import AUDITS
from workers import audit_figures
from workers.attributed import Material, material, tables
from workers.audited import Audited
from workers.auditing import Found
from workers.bounds import gaps, interval_of, of_gaps
from workers.failure import ENDS_EARLY, Failure, ended_early
from workers.judging import SEED, bottleneck
from workers.null import Reads

Read = Callable[[Samples], Tensor]


def measure_probes(version: Audited, task: Mapping[str, Any], progress: Progress) -> Found:
    """Fresh probes of an attribute at what the version shows: its bottleneck, or of a linearised model its answers."""
    classes, net = version.classes, None if version.core is None else version.core.net
    rows = _material(version, task["attribute"])
    access = "the bottleneck's values" if net is not None else SERVED
    rules = AUDITS["audits"]["probes"]
    budget = float(rules["mostNats"])
    sizes: dict[str, Any] = {"values": len(rows.values), "classes": len(classes), "seed": SEED}
    train, test = _held(rows, (lambda samples: bottleneck(net, samples)) if net is not None else lambda s: version.answers(s).float())
    try:
        found = probe(train, test, **sizes, progress=lambda part, done: progress(part, 0.1 * done))
        plants = planted(train, test, **sizes, budget=budget)
        null = permuted(train, test, **sizes, times=rules["permutations"], progress=lambda part, done: progress(part, 0.2 + 0.3 * done))
    except ValueError as error:
        raise Failure("audit_rows", f"The audit rows are too few for probes ({error}). Upload more with this attribute.") from error
    between = _between(net, rows, found, len(classes))
    anew, others, why = _retrained(version, rows, sizes, rules["retrainings"], lambda done: progress("", 0.5 + 0.5 * done))
    stated = findings.of_probes(found, plants, null, budget=budget, access=access)
    stated += findings.of_retrained(found, anew, access=access, why=why)
    files = {
        "probes.svg": audit_figures.probes(found, null, anew, task["attribute"], budget, between),
        "probes.csv": audit_figures.probes_csv(found, null, anew),
        "leakage-interval.csv": audit_figures.interval_csv(between),
    }
    return Found([*stated, *findings.of_interval(between, found.n, access, null=others), *_fairness(version, rows)], files)


def _fairness(version: Audited, rows: Material) -> list[Measured]:
    """How differently the whole version answers the groups of the attribute, beside retrained versions."""
    judged, null = rows.decides.known.samples, version.null
    answers = [version.answers(judged), *null.answers(judged)]
    sizes = {"values": len(rows.values), "classes": len(version.classes)}
    own, *others = (gaps(one.argmax(dim=1), rows.decides, **sizes) for one in answers)
    note = f"The largest difference between two values' groups; groups of few rows are withheld. {null.note}"
    return of_gaps(own, others, len(judged), access=SERVED, note=note)


def _material(version: Audited, attribute: str) -> Material:
    """The audit rows with the attribute's values: by a pass of their own, for `material` looks for values among rows to be trained on."""
    plan = version.plan
    blocks = [block for _, block in tables(plan, version.shelf, {*version.chooses.ids, *version.decides.ids})]
    relabelled = [block.set_column(block.schema.get_field_index("role"), "role", _as_core(block)) for block in blocks]
    return material([*blocks, *relabelled], attribute, data="core", shape=tuple(plan["dataset"]["shape"]), classes=version.classes)


def _held(rows: Material, read: Read) -> tuple[Held, Held]:
    train, test = (half.known for half in (rows.chooses, rows.decides))
    return tuple(Held(read(part.samples), part.values, part.samples.labels) for part in (train, test))  # type: ignore[return-value]


def _between(net: Network | None, rows: Material, found: Probed, classes: int) -> Interval:
    return interval.trivial(found) if net is None else interval_of(net, rows.decides, found, values=len(rows.values), classes=classes)


def _retrained(
    version: Audited, rows: Material, sizes: Mapping[str, Any], times: int, tell: Callable[[float], None]
) -> tuple[list[Probed], list[Interval], str]:
    """Probe versions that are trained again, and compute their intervals. Returns also why these are fewer than were to be."""
    shown, why = _again(version, times)
    found: list[Probed] = []
    between: list[Interval] = []
    try:
        for read, net in shown:
            found.append(probe(*_held(rows, read), **sizes, resamples=RESAMPLES))
            between.append(_between(net, rows, found[-1], sizes["classes"]))
            tell(len(found) / times)
    except ENDS_EARLY as error:  # what is found of the version itself does not depend on how another seed fares
        return found, between, ended_early(error)
    return found, between, why


def _again(version: Audited, times: int) -> tuple[list[tuple[Read, Network | None]], str]:
    """What retrained versions show of rows, and why they are fewer than were to be."""
    if version.core is None or version.core.net is None:
        null = version.null
        some = [partial(_answers, reads, weights) for reads, weights in null.versions[:times]]
        return [(read, None) for read in some], "" if some else null.note
    nets, why = version.anew
    return [(partial(bottleneck, net), net) for net in nets], why


def _answers(reads: Reads, weights: Tensor, rows: Samples) -> Tensor:
    return reads(rows)(weights).float()


def _as_core(block: Any) -> Any:
    return pa.array(["core"] * len(block), pa.string())
