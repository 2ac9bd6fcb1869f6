"""What a linearised model is made of: its rows, read from the data set; its files and private state, as blobs; its accuracy."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from math import inf
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from safetensors.torch import load as load_tensors
from torch import Tensor

from models import gaussian
from models.audit.utility import SMALLEST, Accuracy, accuracy
from models.data import Samples
from models.linear.curvature import Curvature, RandomBytes
from models.linear.whole import WholeCore, logits
from models.linear.whole_file import load_user, load_whole, user_tensors, whole_tensors
from workers.artifacts import (
    Shelf,
    among,
    in_final_half,
    labels_of,
    pack_table,
    pack_weights,
    rows_with_role,
    samples_of,
    unpack_table,
    unpack_weights,
)
from workers.measure import cell
from workers.recipe import architecture_of, layers_of

ROLES = ("core", "user", "audit")
AGAIN = 4
"""Independent draws of noise that its cost is measured with."""


@dataclass(frozen=True)
class Held:
    """The rows of the data set that a model holds, by role; of the audit rows those of the final half."""

    core: pa.Table
    user: pa.Table
    audit: pa.Table

    def kept(self, gone: Set[str]) -> Held:
        """Leave out some samples."""
        return Held(*(_without(table, gone) for table in (self.core, self.user, self.audit)))

    def named(self, role: str, ids: Set[str]) -> pa.Table:
        """The rows of one role with these ids."""
        table: pa.Table = getattr(self, role)
        return table.filter(among(table["sample_id"], ids))


def held_rows(plan: Mapping[str, Any], shelf: Shelf, ids: Set[str] | None, *, roles: Collection[str] = ROLES) -> Held:
    """Read rows of a data set into memory, a block at a time.

    Args:
        ids: what the model holds; the data set may also hold rows that only other models still do. None takes all.
        roles: whose rows are wanted; the others' tables are empty.
    """
    found: dict[str, list[pa.Table]] = {role: [] for role in ROLES}
    for position in range(len(plan["dataset"]["blocks"])):
        block = block_of(plan, shelf, position, ids)
        for role, tables in found.items():
            tables.append(rows_with_role([block], role) if role in roles else block.schema.empty_table())
    core, user, audit = (pa.concat_tables(found[role]) for role in ROLES)
    return Held(core, user, audit.filter(pa.array([in_final_half(i) for i in audit["sample_id"].to_pylist()], pa.bool_())))


def block_of(plan: Mapping[str, Any], shelf: Shelf, position: int, ids: Set[str] | None) -> pa.Table:
    """Read one data block.

    Args:
        position: among the data set's blocks.
        ids: the rows that are wanted; None takes all.
    """
    table = unpack_table(shelf.vault.read(plan["dataset"]["blocks"][position][1]))
    return table if ids is None else table.filter(pa.array([i in ids for i in table["sample_id"].to_pylist()], pa.bool_()))


def samples(table: pa.Table, plan: Mapping[str, Any], classes: list[Any]) -> Samples:
    """Rows as tensors, also where there are none."""
    shape = tuple(plan["dataset"]["shape"])
    if len(table):
        return samples_of(table, shape, classes)
    return Samples(torch.zeros(0, *shape, dtype=torch.uint8 if len(shape) == 3 else torch.float32), torch.zeros(0, dtype=torch.int64), ())


def refuse_unknown_labels(plan: Mapping[str, Any], shelf: Shelf, classes: list[Any], ids: Set[str] | None) -> None:
    """Look at the user rows' labels before a core is trained for them.

    Args:
        ids: the rows that count; None takes all.

    Raises:
        Failure: `label_unknown`, when one is not among the classes.
    """
    index = unpack_table(shelf.vault.read(plan["dataset"]["index"]))
    labels_of(rows_with_role([index if ids is None else index.filter(among(index["sample_id"], ids))], "user"), classes)


def index_of_model(plan: Mapping[str, Any], shelf: Shelf, classes: list[Any], ids: Set[str] | None) -> bytes:
    """The model's own index, as `exact` keeps it, without blocks: sample_id, role, label (index in the class list), block -1."""
    index = unpack_table(shelf.vault.read(plan["dataset"]["index"]))
    index = index if ids is None else index.filter(among(index["sample_id"], ids))
    labels = pc.index_in(index["label"], value_set=pa.array(classes, index.schema.field("label").type)).cast(pa.int32())
    blocks = pa.array(np.full(len(index), -1, np.int32))
    return pack_table(pa.table({"sample_id": index["sample_id"], "role": index["role"], "label": labels, "block": blocks}))


# Files and private state ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loaded:
    """A linearised model as a forget job finds it."""

    core: WholeCore
    curvature: Curvature
    """Measured on core rows alone, once: the shape of the noise, the bound and the preconditioner."""
    weights: Tensor
    """`[p]` float64: w_u of the version before."""


def load(plan: Mapping[str, Any], shelf: Shelf) -> Loaded:
    vault, files = shelf.vault, plan["files"]
    core = core_of(plan, shelf, files["core.safetensors"]["blob"])
    weights = load_user(core.tangent, unpack_weights(vault.read(files["user.safetensors"]["blob"])))
    return Loaded(core, unpack_curvature(vault.read(plan["state"]["curvature"])), weights)


def core_of(plan: Mapping[str, Any], shelf: Shelf, blob: str) -> WholeCore:
    spec = plan["spec"]
    architecture = architecture_of(spec, tuple(plan["dataset"]["shape"]), len(spec["classes"]))
    return load_whole(architecture, layers_of(spec), unpack_weights(shelf.vault.read(blob)))


def pack_core(core: WholeCore, *, mu_max: float) -> bytes:
    return pack_weights(whole_tensors(core, mu_max=mu_max))


def pack_user(core: WholeCore, weights: Tensor) -> bytes:
    return pack_weights(user_tensors(core.tangent, weights))


def pack_curvature(curvature: Curvature) -> bytes:
    return pack_weights({"U": curvature.U, "values": curvature.values, "ridge": torch.tensor(curvature.ridge, dtype=torch.float64)})


def unpack_curvature(data: bytes) -> Curvature:
    tensors = load_tensors(data)
    return Curvature(tensors["U"], tensors["values"], float(tensors["ridge"]))


# Wishes ---------------------------------------------------------------------------------------------------------------


def mu_of(wish: Mapping[str, float] | None, *, mu_max: float) -> float:
    """The mu that a request's wish means: at most the model's, rounded down to six digits, so that its text is no smaller."""
    asked = mu_max
    if wish and wish.get("nats") is not None:
        asked = gaussian.mu_of_nats(wish["nats"])
    elif wish and wish.get("epsilon") is not None:
        asked = gaussian.mu_of(wish["epsilon"], wish["delta"])
    return float(Context(prec=6, rounding=ROUND_FLOOR).create_decimal(repr(min(asked, mu_max))))


def rounded_up(number: float) -> str:
    """Two digits, never less than the number."""
    if not number < inf:
        return "infinite"
    return f"{float(Context(prec=2, rounding=ROUND_CEILING).create_decimal(repr(number))):g}"


# Accuracy -------------------------------------------------------------------------------------------------------------


def compared(core: WholeCore, before: Tensor | None, after: Tensor, rows: Samples, *, split: str) -> list[dict[str, Any]]:
    """Count right answers before and after on one split, or nothing where there are no rows.

    `retrained` is withheld: what a refit would give is not these weights, and is not computed.
    """
    if not len(rows):
        return []
    found = [cell(_count(core, w, rows)) if w is not None else "withheld" for w in (before, after)]
    return [{"metric": "accuracy", "split": split, "before": found[0], "after": found[1], "retrained": "withheld"}]


def cost_of_noise(
    core: WholeCore, released: Tensor, shape: Curvature, rows: Samples, *, split: str, random_bytes: RandomBytes
) -> list[dict[str, Any]]:
    """Count right answers after adding noise of the release's size once more, mean of several draws.

    Only the release enters, not the weights before its own noise: post-processing, which costs no privacy.
    """
    if len(rows) < SMALLEST:
        return []
    right = 0
    for _ in range(AGAIN):
        drawn = _count(core, released + core.sigma * shape.draw(random_bytes), rows)
        assert drawn is not None
        right += drawn.correct
    metric = f"accuracy with further noise of the same size, mean of {AGAIN} draws"
    after = cell(Accuracy(round(right / AGAIN), len(rows)))
    return [{"metric": metric, "split": split, "before": "withheld", "after": after, "retrained": "withheld"}]


def _count(core: WholeCore, w: Tensor, rows: Samples) -> Accuracy | None:
    return accuracy(logits(core, w, rows.inputs), rows.labels) if len(rows) >= SMALLEST else None


def _without(table: pa.Table, gone: Set[str]) -> pa.Table:
    return table.filter(pc.invert(among(table["sample_id"], gone)))
