"""What fault tests did and found, a line of JSON each; `python -m tests.figures` sums them up as a table."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FILE = Path(os.environ.get("EXPUNGE_FIGURES", "faults.jsonl"))
COLUMNS = ("runs", "kills", "accepted", "lost", "doubled", "uncertified")

Figures = Callable[..., None]


@pytest.fixture
def figures() -> Figures:
    """Write down what one test did: counts by name."""

    def write(fault: str, **counts: float) -> None:
        with FILE.open("a") as file:  # one short line in append mode: processes that write at once do not tear each other's
            file.write(json.dumps({"fault": fault} | counts) + "\n")

    return write


def table(lines: list[dict[str, Any]]) -> str:
    """Sum the figures by fault; what only some faults have stands behind."""
    sums: dict[str, dict[str, float]] = {}
    for line in lines:
        found = sums.setdefault(line["fault"], {})
        for name, value in line.items():
            if name != "fault":
                found[name] = found.get(name, 0) + value
    rows = [["fault", *COLUMNS, "besides"], ["---"] * (len(COLUMNS) + 2)]
    for fault, found in sums.items():
        besides = ", ".join(f"{name.replace('_', ' ')} {value:,.6g}" for name, value in found.items() if name not in COLUMNS)
        rows.append([fault, *(f"{found[c]:,.0f}" if c in found else "" for c in COLUMNS), besides])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    if "--clear" in sys.argv:
        FILE.unlink(missing_ok=True)
    elif FILE.exists():
        sys.stdout.write(table([json.loads(line) for line in FILE.read_text().splitlines()]) + "\n")
