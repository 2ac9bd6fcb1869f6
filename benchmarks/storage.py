"""The forget job's own step on encrypted blobs: what reading, publishing and erasing cost beside the mathematics."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.clock import once
from benchmarks.setting import Setting
from models.forget.refit import weights_of
from models.linear.statistics import Rows, Statistics
from service.blobs import Vault, directory_vault
from workers.artifacts import Shelf, index_of, pack_rows, pack_table
from workers.ingest import BLOCK_ROWS
from workers.report import Report
from workers.steps.fit import Fitted, write
from workers.steps.forget import forget

CLASSES = list(range(10))
MODEL = "model"


@dataclass(frozen=True)
class Stored:
    """A fitted model and its data set as the service keeps them: blocks of rows, sums, weights, indices, all sealed."""

    vault: Vault
    plan: dict[str, Any]
    """What the step is told, without its requests."""
    ids: tuple[str, ...]
    """Of the user rows."""


@dataclass(frozen=True)
class Step:
    """One run of the step."""

    phases: dict[str, float]
    """Seconds by phase, as the job reports them."""
    shredding: float
    """Seconds to destroy the keys and bytes of every blob that the step replaced."""
    blocks: int
    """Blocks rewritten, of the data set and of the integer rows together."""


def store(setting: Setting, statistics: Statistics, folder: Path, *, n: int) -> Stored:
    """Write a model over the first n user rows."""
    vault = directory_vault(folder / "blobs", folder / "keys")
    shelf = Shelf(vault, "first-")
    tables, rows_blocks, data_blocks = [], [], []
    for number, start in enumerate(range(0, n, BLOCK_ROWS)):
        end = min(start + BLOCK_ROWS, n)
        ids, labels = setting.user.ids[start:end], setting.user.labels[start:end]
        rows = Rows(setting.rows.features[start:end], setting.rows.targets[start:end])
        blob = shelf.put(pack_rows(rows, ids, labels)).blob_id
        rows_blocks.append({"number": number, "blob": blob, "rows": end - start})
        tables.append(_table(setting, start, end))
        data_blocks.append([number, shelf.put(pack_table(tables[-1])).blob_id])
    index = index_of(tables)
    held = index.select(["sample_id", "role"]).append_column("label", index["label"].cast(pa.int32()))
    held = held.append_column("block", index["block"])
    weights = weights_of(setting.core, statistics)
    fitted = Fitted(setting.core, 0, CLASSES, setting.begun, statistics, weights, rows_blocks, held, None)
    files, state = write(fitted, shelf, {})
    shape = list(setting.core.architecture.input_shape)
    form = {k: getattr(setting.core.architecture, k) for k in ("name", "activation", "taps", "bottleneck", "hidden", "grid")}
    dataset = {"blocks": data_blocks, "index": shelf.put(pack_table(index)).blob_id, "shape": shape, "text_labels": False}
    plan = {
        "kind": "forget", "method": "exact", "model_id": MODEL, "parent": 1, "files": files, "state": state, "dataset": dataset,
        "spec": {"classes": CLASSES, "architecture": form}, "blocks": [[b["number"], b["blob"]] for b in rows_blocks], "others": [],
        "secret": secrets.token_hex(32), "tombstones": [],
    }  # fmt: skip
    return Stored(vault, plan, setting.user.ids[:n])


def run_step(stored: Stored, gone: list[int], *, turn: int) -> Step:
    """Run the step on a request for these rows, and destroy what a publishing transaction would have scheduled.

    What is destroyed here are the new blobs: as many and as large as the old ones, which the next turn reads again.

    Args:
        gone: row numbers.
        turn: distinguishes the names of blobs.
    """
    shelf = Shelf(stored.vault, f"turn{turn}-{len(gone)}-")
    body = {"kind": "samples", "ids": [stored.ids[i] for i in gone], "seed": secrets.token_hex(32)}
    request = {"id": "request", "body": shelf.put(json.dumps(body).encode()).blob_id}
    report = Report(lambda phase, fraction: None)
    outcome = forget(stored.plan | {"requests": [request]}, shelf, report)
    assert outcome["facts"]["count"] == len(gone)
    written = list(stored.vault.ids(shelf.prefix))
    _, shredding = once(lambda: _shred(stored.vault, written))
    return Step(dict(report.seconds), shredding, len(outcome["blocks"]) + len(outcome["dataset_blocks"]))


def _shred(vault: Vault, blobs: list[str]) -> None:
    for blob in blobs:
        vault.shred(blob)


def gone_rows(n: int, k: int) -> list[int]:
    """Return the row numbers that `setting.case` chooses."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(1000 * k + 1))[:k].sort().values.tolist()


def _table(setting: Setting, start: int, end: int) -> pa.Table:
    size = int(np.prod(setting.core.architecture.input_shape))
    return pa.table({
        "sample_id": pa.array(setting.user.ids[start:end], pa.string()),
        "role": pa.array(["user"] * (end - start), pa.string()),
        "label": pa.array(setting.user.labels[start:end].tolist(), pa.int64()),
        "subject_id": pa.nulls(end - start, pa.string()),
        "input": pa.array([row.tobytes() for row in setting.user.inputs[start:end].numpy()], pa.binary(size)),
    })  # fmt: skip
