"""What a worker can do: one function a kind of job, from a plan to an outcome. No database here: blobs in, blobs out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from workers import parts, slopes
from workers.artifacts import Shelf
from workers.report import Report
from workers.steps.audit import audit
from workers.steps.erase import erase
from workers.steps.fit import fit
from workers.steps.forget import forget
from workers.steps.validate import validate


def block(plan: Mapping[str, Any], shelf: Shelf, report: Report) -> dict[str, Any]:
    """One part of a job: of a gradient at a point, or of a fit."""
    return (slopes.part if "at" in plan else parts.block)(plan, shelf, report)


Step = Callable[[Mapping[str, Any], Shelf, Report], dict[str, Any]]

STEPS: dict[str, Step] = {"validate": validate, "fit": fit, "forget": forget, "erase": erase, "audit": audit, "block": block}
