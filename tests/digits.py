"""scikit-learn's digits as an upload: roles, subjects and an attribute, written as the service wants them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.datasets import load_digits

CORE, AUDIT = 450, 200
PEOPLE = 30


@dataclass(frozen=True)
class Digits:
    """Columns of a small data set: 450 core, 200 audit, the rest user rows of 30 people."""

    ids: list[str]
    roles: list[str]
    labels: list[int]
    subjects: list[str | None]
    hands: list[str | None]
    images: np.ndarray[Any, Any]

    def table(self) -> pa.Table:
        table = pa.table({
            "sample_id": self.ids, "role": self.roles, "label": pa.array(self.labels, pa.int64()),
            "subject_id": pa.array(self.subjects, pa.string()), "attr_hand": pa.array(self.hands, pa.string()),
            "image": pa.array([i.tobytes() for i in self.images], pa.binary())})  # fmt: skip
        return table.replace_schema_metadata({"image_encoding": "raw_uint8", "height": "8", "width": "8", "channels": "1"})

    def without(self, gone: set[str]) -> Digits:
        keep = [i for i, sample in enumerate(self.ids) if sample not in gone]
        return Digits(*([column[i] for i in keep] for column in (self.ids, self.roles, self.labels, self.subjects, self.hands)),
                      self.images[keep])  # fmt: skip

    def of(self, *, role: str | None = None, subject: str | None = None, label: int | None = None) -> list[str]:
        return [s for s, r, p, y in zip(self.ids, self.roles, self.subjects, self.labels, strict=True)
                if (role is None or r == role) and (subject is None or p == subject) and (label is None or y == label)]  # fmt: skip


def digits(seed: int = 0) -> Digits:
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    role = np.array(["user"] * len(labels), dtype=object)
    role[order[:CORE]], role[order[CORE : CORE + AUDIT]] = "core", "audit"
    return Digits(
        ids=[f"sample-{i:04}" for i in range(len(labels))],
        roles=role.tolist(),
        labels=labels.tolist(),
        subjects=[f"person-{i % PEOPLE:02}" if role[i] == "user" else None for i in range(len(labels))],
        hands=[("left", "right", None)[i % 3] for i in range(len(labels))],
        images=(pixels * 15).astype(np.uint8).reshape(-1, 8, 8),
    )


def renamed(data: Digits, prefix: str) -> Digits:
    """The same rows under other names."""
    return replace(data, ids=[f"{prefix}{s}" for s in data.ids])


def parquet(data: Digits | pa.Table, path: Path) -> bytes:
    pq.write_table(data.table() if isinstance(data, Digits) else data, path)
    return path.read_bytes()
