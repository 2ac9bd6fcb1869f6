"""The gradient that a linearised model's proof rests on, in parts: each data block's own, by any process, added in the order of the blocks.

Floating-point sums depend on their order, and these cannot be integers: the products have no scale that is known before them, and a
rounding to one would be an error that the theorem does not count. So every block is summed alone, by one process, and the sums of blocks
are added in the order of the blocks: the same bits whoever had which part, and the same as from one process, which adds block by block too,
where all have the same kind of device.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from safetensors.torch import load as load_tensors
from torch import Tensor

from models.device import accelerator
from models.linear.descent import Way
from models.linear.frozen import one_hot
from models.linear.quadratic import slope, total
from models.linear.tangent import prepare
from workers import linearised
from workers.artifacts import Shelf, pack_weights, rows_with_role
from workers.parts import Split, tables
from workers.report import Report

PHASE = "summing the gradient"


def split(way: Way, plan: Mapping[str, Any], shelf: Shelf, dropped: Iterable[str]) -> Split:
    """Write down the point whose gradient is wanted.

    Args:
        dropped: ids of the rows to leave out. In a blob, as the point is: the record holds no ids, and no weights without noise.
    """
    at = shelf.put(pack_weights({"w": way.w})).blob_id
    out = shelf.put(json.dumps(sorted(dropped)).encode()).blob_id
    common = {"at": at, "core": plan["files"]["core.safetensors"]["blob"], "dropped": out}
    return Split(
        tasks=[common | {"blocks": group} for group in plan["groups"]],
        base={"at": at, "history": list(way.history), "runs": way.runs, "passes": way.passes},
        phase=PHASE,
    )


def part(plan: Mapping[str, Any], shelf: Shelf, report: Report) -> dict[str, Any]:
    """Carry out one part: sum some data blocks, each alone."""
    report.plan = {"loading": 0.05, PHASE: 0.95}
    report.phase("loading")
    core, w = linearised.core_of(plan, shelf, plan["core"]), _tensor(shelf, plan["at"], "w")
    exact, classes, written = core.tangent.double().on(accelerator()), plan["spec"]["classes"], list[dict[str, Any]]()
    report.phase(PHASE)
    for number, table in tables(plan, shelf):
        user, core_rows = (linearised.samples(rows_with_role([table], role), plan, classes) for role in ("user", "core"))
        rows, under = (prepare(core.tangent, part.inputs) for part in (user, core_rows))
        targets = one_hot(user.labels, classes=core.classes, target=core.target)
        found = slope(exact, rows, targets, under, w, base=core.weight, scale=core.logit_scale)
        written.append({"number": number, "blob": shelf.put(pack_weights({"slope": found})).blob_id, "rows": len(table)})
        report.progress("", len(written) / len(plan["blocks"]))
    return {"result": {"blocks": written, "blobs": {}}, "seconds": report.end()}


def gathered(plan: Mapping[str, Any], shelf: Shelf, *, ridge: float) -> tuple[Way, Tensor]:
    """Return the point and its gradient `[p]`, and destroy what was written down of the point, which has no noise yet."""
    said = plan["parts"]["base"]
    w = _tensor(shelf, said["at"], "w")
    shelf.vault.shred(said["at"])
    slopes = (_tensor(shelf, block["blob"], "slope") for result in plan["parts"]["results"] for block in result["blocks"])
    return Way(w, tuple(said["history"]), said["runs"], said["passes"]), total(w, ridge, slopes)


def seconds(plan: Mapping[str, Any]) -> float:
    """How long the halves of the job before this one, and their parts, took to forget."""
    spent = plan.get("parts", {}).get("seconds", {})
    return float(sum(spent.get(phase, 0.0) for phase in ("forgetting", PHASE)))


def _tensor(shelf: Shelf, blob: str, name: str) -> Tensor:
    return load_tensors(shelf.vault.read(blob))[name]
