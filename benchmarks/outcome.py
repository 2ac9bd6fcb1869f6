"""What a benchmark found: tables for people, numbers for machines, goals with what was reached."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Table:
    """Rows under headings."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    """What a reader must know to read the numbers right."""


@dataclass(frozen=True)
class Goal:
    """A figure that was aimed at, beside the one reached."""

    what: str
    wanted: str
    reached: str
    met: bool


@dataclass(frozen=True)
class Outcome:
    """All that one benchmark reports."""

    name: str
    title: str
    tables: tuple[Table, ...]
    goals: tuple[Goal, ...]
    numbers: dict[str, Any] = field(default_factory=dict)
    """Everything measured, JSON values."""


def progress(text: str) -> None:
    """Say on stderr how far the benchmark is."""
    sys.stderr.write(f"  {text}\n")
    sys.stderr.flush()


def show(outcome: Outcome) -> str:
    """Return the outcome as Markdown, which also reads as plain text."""
    parts = [f"# {outcome.title}", ""]
    for table in outcome.tables:
        parts += [f"## {table.title}", "", *_lines(table.headings, table.rows), "", *([table.note, ""] if table.note else [])]
    rows = tuple((goal.what, goal.wanted, goal.reached, "met" if goal.met else "**missed**") for goal in outcome.goals)
    if rows:
        parts += ["## Goals", "", *_lines(("goal", "wanted", "reached", ""), rows), ""]
    return "\n".join(parts)


def save(outcome: Outcome, machine: dict[str, Any], folder: Path = RESULTS) -> None:
    """Write `<name>.json` and `<name>.md`, each with the machine it holds for."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {"name": outcome.name, "machine": machine, "goals": [asdict(goal) for goal in outcome.goals], "numbers": outcome.numbers}
    (folder / f"{outcome.name}.json").write_text(json.dumps(document, indent=1) + "\n")
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items())
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; Python {machine['python']}, {packages}; "
    where += f"{', '.join(machine['blas'])}; load before the run {machine['load_at_start']}."
    (folder / f"{outcome.name}.md").write_text(show(outcome) + f"\nMeasured on: {where}\n")


def earlier_numbers(name: str, folder: Path = RESULTS) -> dict[str, Any]:
    """Return the numbers that an earlier run of this benchmark saved, or none."""
    path = folder / f"{name}.json"
    return dict(json.loads(path.read_text())["numbers"]) if path.exists() else {}


def seconds(value: float) -> str:
    """Write a time with three digits: 12.3 s, 4.56 ms."""
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def times(value: float) -> str:
    """Write a ratio: 1,234x, 1.23x."""
    return f"{value:,.0f}x" if value >= 100 else f"{value:.3g}x"


def megabytes(value: float) -> str:
    """Write bytes as MB of 10^6."""
    return f"{value / 1e6:,.0f} MB"


def percent(value: float) -> str:
    """Write a fraction as a percentage with two decimals."""
    return f"{100 * value:.2f} %"


def _lines(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in (headings, *rows)) for i in range(len(headings))]
    written = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (headings, *rows)]
    written.insert(1, "-|-".join("-" * width for width in widths))
    return [f"| {line} |" if i != 1 else f"|-{line}-|" for i, line in enumerate(written)]
