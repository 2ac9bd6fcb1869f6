"""Small data sets with a private attribute that a network cannot help reading: digits on a coloured background, and a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.datasets import load_digits

PALETTE = np.array([[200, 40, 40], [40, 160, 60], [40, 70, 200], [200, 180, 40], [150, 50, 170]], np.uint8)
COLOURS = ("red", "green", "blue", "yellow", "purple")
PEOPLE = 20


@dataclass(frozen=True)
class Shares:
    """Rows by role."""

    core: int = 600
    audit: int = 800


def roles_of(count: int, shares: Shares, draw: np.random.Generator) -> np.ndarray[Any, Any]:
    order = draw.permutation(count)
    role = np.array(["user"] * count, dtype=object)
    role[order[: shares.core]] = "core"
    role[order[shares.core : shares.core + shares.audit]] = "audit"
    return role


def coloured_digits(values: int = 2, *, missing: float = 0.0, seed: int = 0, shares: Shares = Shares(), core_has: bool = True) -> pa.Table:
    """scikit-learn's digits, 8 x 8 in three channels, before a background whose colour is the attribute; colour and digit are independent.

    Args:
        missing: share of rows without a value, and of the colour none the less.
        core_has: whether core rows have the attribute at all.
    """
    draw = np.random.default_rng(seed)
    pixels, labels = load_digits(return_X_y=True)
    ink = (pixels.reshape(-1, 8, 8, 1) / 16) ** 0.7
    colour = draw.integers(0, values, len(labels))
    images = (255 * ink + PALETTE[colour][:, None, None, :] * (1 - ink)).astype(np.uint8)
    role = roles_of(len(labels), shares, draw)
    known = (draw.random(len(labels)) >= missing) & (core_has | (role != "core"))
    table = _table("digit", role, labels, pa.array([COLOURS[c] if k else None for c, k in zip(colour, known, strict=True)], pa.string()))
    table = table.append_column("image", pa.array([image.tobytes() for image in images], pa.binary()))
    return table.replace_schema_metadata({"image_encoding": "raw_uint8", "height": "8", "width": "8", "channels": "3"})


def people(values: int = 2, *, missing: float = 0.0, seed: int = 0, rows: int = 2400) -> pa.Table:
    """A table of twelve numbers a row: some tell the label, some the attribute (whole numbers), some nothing; the two are independent."""
    draw = np.random.default_rng(seed)
    label, value = draw.integers(0, 2, rows), draw.integers(0, values, rows)
    features = draw.normal(size=(rows, 12)).astype(np.float32)
    features[:, :3] += 1.6 * (2 * label[:, None] - 1)
    features[:, 3:6] += 3.0 * np.array([np.cos(2 * np.pi * value / values), np.sin(2 * np.pi * value / values), value % 2]).T
    features[:, 6] += 1.2 * (2 * label - 1)
    role = roles_of(rows, Shares(core=700, audit=1200), draw)
    known = draw.random(rows) >= missing
    table = _table("person", role, label, pa.array([int(v) if k else None for v, k in zip(value, known, strict=True)], pa.int64()))
    return table.append_column("features", pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1)), 12))


def _table(name: str, role: np.ndarray[Any, Any], labels: Any, values: pa.Array) -> pa.Table:
    subjects = [f"subject-{i % PEOPLE:02}" if role[i] == "user" else None for i in range(len(labels))]
    return pa.table({
        "sample_id": [f"{name}-{i:04}" for i in range(len(labels))], "role": role.tolist(), "label": pa.array(labels, pa.int64()),
        "subject_id": pa.array(subjects, pa.string()), "attr_group": values})  # fmt: skip
