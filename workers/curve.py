"""The trade-off curve: every point that was tried, leakage against accuracy, as numbers that outlive the job."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal


@dataclass(frozen=True)
class Point:
    """One point that was tried. Nats, and fractions of right answers."""

    name: str
    """Method and scope."""

    rows: Literal["chooses", "decides"]
    """The audit rows it was measured on: those that choose among points, or those that decide about the chosen one."""

    accuracy: float
    drop: float
    """Below the same taps with nothing removed."""

    leakage: float
    """The largest V-information of the fresh probes."""

    lower: float
    upper: float
    """95 % limits, over the probes at once."""

    linear: float
    linear_upper: float
    """The linear probe alone."""

    n: int
    """Balanced rows that the probes were judged on are worth."""

    seconds: float
    epochs: int

    def document(self) -> dict[str, Any]:
        return asdict(self)


def point_of(document: dict[str, Any]) -> Point:
    return Point(**document)


def as_csv(points: Sequence[Point]) -> bytes:
    """The curve as a table, a line a point, in the order tried."""
    out = io.StringIO(newline="")
    names = [field.name for field in fields(Point)]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for point in points:
        writer.writerow([_text(getattr(point, name)) for name in names])
    return out.getvalue().encode()


def _text(value: str | int | float) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
