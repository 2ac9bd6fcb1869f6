"""The audits of a version, one function each: what is measured, against which null, and whether the measure could have said no."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from models.audit import distance as distances
from models.audit import findings
from models.audit.calibration import calibration_error
from models.audit.findings import mean_and_largest
from models.audit.utility import Accuracy, accuracy, utility
from models.guarantee import Measured
from models.progress import Progress
from workers import audit_figures
from workers.audited import Audited
from workers.failure import Failure


@dataclass
class Found:
    """What an audit leaves."""

    measured: list[Measured]
    files: dict[str, bytes] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)
    """Files that show samples: destroyed as soon as the model forgets anything."""


Audit = Callable[[Audited, Mapping[str, Any], Progress], Found]


def measure_utility(version: Audited, task: Mapping[str, Any], progress: Progress) -> Found:
    """Accuracy over all audit rows of the final half and by class, and calibration; beside retrained versions."""
    labels, null = version.decides.labels, version.null
    logits, others = version.answers(version.decides), null.answers(version.decides)
    counted, varied = utility(logits, labels), [utility(one, labels) for one in others]
    note = f"Cells of fewer than 20 rows are withheld: one person's accuracy is personal data. {null.note}"
    if counted.overall is None:
        raise Failure("audit_rows", "Fewer than 20 audit rows of the final half: an accuracy over so few is withheld.")
    named: list[tuple[str, Accuracy | None, list[Accuracy | None]]] = [("accuracy", counted.overall, [one.overall for one in varied])]
    for place, name in enumerate(version.classes):
        named.append((f"accuracy of class {name}", counted.by_class[place], [one.by_class[place] for one in varied]))
    found, rows = [], []
    for metric, cell, cells in named:
        if cell is not None:
            values = [one.value for one in cells if one is not None]
            spread = mean_and_largest(values)
            found.append(findings.shown("utility", metric, cell.value, cell.n, ci95=cell.ci95, null=spread, note=note))
            rows.append((metric, cell.value, *cell.ci95, *_spread(values), cell.n))
    error = calibration_error(logits, labels)
    if error is not None:
        values = [one for one in (calibration_error(each, labels) for each in others) if one is not None]
        note = f"0: as often right as it says it is. {null.note}"
        found.append(findings.shown("utility", "calibration error", error, len(labels), null=mean_and_largest(values), note=note))
        rows.append(("calibration error", error, "", "", *_spread(values), len(labels)))
    header = ("metric", "value", "low", "high", "null_mean", "null_smallest", "null_largest", "n")
    drawn = audit_figures.classes(counted, varied, version.classes)
    return Found(found, {"utility.svg": drawn, "utility.csv": audit_figures.table(header, rows)})


def _spread(values: Sequence[float]) -> tuple[Any, ...]:
    return (sum(values) / len(values), min(values), max(values)) if values else ("", "", "")


def measure_distance(version: Audited, task: Mapping[str, Any], progress: Progress) -> Found:
    """How far user samples moved the answers from the core's alone, beside how far retrained versions lie from each other."""
    rows, null = version.decides, version.null
    ours, bare, others = version.answers(rows), version.bare(rows), null.answers(rows)
    apart = distances.outputs(ours, bare)
    if apart is None:
        raise Failure("audit_rows", "Fewer than 20 audit rows of the final half: distances over so few are withheld.")
    pairs = [distances.outputs(one, other) for one, other in zip(others[::2], others[1::2], strict=False)]
    note = f"{null.note} Of a distance: how far two of them lie apart, which is what retraining varies by." if pairs else null.note
    if version.saw_users:
        note += " Its network learnt from user samples, so what is called the model without any of them is it without user weights."
    found = []
    for metric, value, varied in (
        ("L1 of answers to the model without any user sample", apart.l1, [one.l1 for one in pairs if one]),
        ("KL, nats, from the model without any user sample", apart.kl, [one.kl for one in pairs if one]),
    ):
        found.append(findings.shown("distance", metric, value, apart.n, null=mean_and_largest(varied), note=note))
    before, after = accuracy(bare, rows.labels), accuracy(ours, rows.labels)
    cells = [accuracy(one, rows.labels) for one in others]
    errors = mean_and_largest([1 - cell.value for cell in cells if cell is not None])
    for name, cell in (("without any user sample", before), ("as it is", after)):
        if cell is not None:
            low, high = cell.ci95
            interval = (1 - high, 1 - low)
            found.append(findings.shown("distance", f"error {name}", 1 - cell.value, cell.n, ci95=interval, null=errors, note=note))
    return Found(found)


def sealed(name: str, data: bytes, version: Audited, *, picture: bool) -> dict[str, Any]:
    """Store one file of the evidence."""
    stored = version.shelf.put_file(data) | ({"picture": True} if picture else {})
    assert stored["sha256"] == hashlib.sha256(data).hexdigest(), name
    return stored


def phase(name: str) -> str:
    """What progress calls an audit."""
    return f"audit: {name}"
