"""What a data set could remove: of each attribute its values, the rows that have one, and the smallest budget that they can certify."""

from __future__ import annotations

from math import isfinite
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from models.audit.balance import level_after
from models.audit.planted import balanced_rows, smallest_budget
from service.parquet import attribute_kinds
from workers.artifacts import in_final_half
from workers.attributed import FEWEST, MOST, places, values_of


def census(index: pa.Table) -> dict[str, dict[str, Any]]:
    """Count each attribute.

    Args:
        index: role, label and attr_* of a data set's rows.

    Returns:
        by attribute: `values` among core rows and among core and user rows; `rows` with a value, by role; and `smallest_budget` in nats:
        what probes on the audit rows' final half could certify of a bottleneck that says nothing, at the first look at them. None where
        they could not be made.
    """
    return {name: _counted(index, name) for name in attribute_kinds(index.schema)}


def _counted(index: pa.Table, name: str) -> dict[str, Any]:
    column = f"attr_{name}"
    roles = {role: index.filter(pc.equal(index["role"], role)) for role in ("core", "user", "audit")}
    of_core = values_of(roles["core"][column])
    of_all = values_of(pa.concat_tables([roles["core"], roles["user"]])[column])
    known = {role: int((places(rows[column], values_of(rows[column])) >= 0).sum()) for role, rows in roles.items()}
    values = of_core or of_all
    return {
        "values": {"core": len(of_core), "all": len(of_all)},
        "rows": known,
        "smallest_budget": _smallest(roles["audit"], column, values) if FEWEST <= len(values) <= MOST else None,
    }


def _smallest(audit: pa.Table, column: str, values: list[Any]) -> float | None:
    final = torch.tensor([in_final_half(i) for i in audit["sample_id"].to_pylist()], dtype=torch.bool)
    of_value, labels = places(audit[column], values), places(audit["label"], sorted(set(audit["label"].to_pylist())))
    cells = torch.bincount((labels * len(values) + of_value)[final & (of_value >= 0)]).tolist()
    least = smallest_budget(balanced_rows(cells), len(values), level=level_after(0))
    return least if isfinite(least) else None
