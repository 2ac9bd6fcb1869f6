"""What the demo runs on: scikit-learn's digits written as Parquet, or the user's own file; and whom it forgets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sklearn.datasets import load_digits

from service.parquet import inspect

GONE = 25
"""Samples that the demo forgets first."""
AUDIT, CORE = 300, 748  # of 1,797 digits; 749 are left for users
SMALLEST_IMAGE = 8  # pixels a side that `convnet` takes


class UnusableData(Exception):
    """The file cannot be demonstrated on. The message says what it lacks."""


@dataclass(frozen=True)
class Plan:
    """One demonstration."""

    data: Path
    architecture: str
    user_rows: int
    subject: str | None
    """Who asks to be forgotten; None where the rows are drawn."""
    gone: tuple[str, ...]
    """Ids of the user rows forgotten first."""


def write_digits(path: Path, *, seed: int) -> None:
    """Write the 1,797 digits: core rows, user rows of 30 subjects (29 of them with 25 rows), and audit rows, drawn by `seed`."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(images))
    role = np.full(len(images), "user", dtype=object)
    role[order[:AUDIT]], role[order[AUDIT : AUDIT + CORE]] = "audit", "core"
    subject = np.full(len(images), None, dtype=object)
    for place, row in enumerate(order[AUDIT + CORE :]):
        subject[row] = f"person-{place // GONE + 1:02d}"
    table = pa.table({
        "sample_id": [f"digit-{row:04d}" for row in range(len(images))], "role": pa.array(role, pa.string()),
        "label": pa.array(labels.astype(np.int64)), "subject_id": pa.array(subject, pa.string()),
        "image": pa.array([(image * 15).astype(np.uint8).tobytes() for image in images], pa.binary())})  # 0-16 becomes 0-240
    form = {"image_encoding": "raw_uint8", "height": "8", "width": "8", "channels": "1"}
    pq.write_table(table.replace_schema_metadata(form), path)


def choose(path: Path, *, seed: int) -> Plan:
    """Choose the architecture by the kind of input, and the subject whose number of rows is nearest to 25.

    Subjects with core or audit rows are passed over: the figures are about user rows. Without any suitable subject, 25 user rows are
    drawn (half of them where there are fewer than 50).

    Raises:
        Problem: the file is not a data set.
        UnusableData: it has no user rows, or fewer than 2 core rows.
    """
    with path.open("rb", buffering=0) as source:
        layout = inspect(source, max_rows=1 << 40, max_expansion=float("inf"))
    named = ["sample_id", "role", "subject_id"] if "subject_id" in pq.read_schema(path).names else ["sample_id", "role"]
    rows = pq.read_table(path, columns=named)
    users, core = (rows.filter(pc.equal(rows["role"], role)) for role in ("user", "core"))
    others = rows.filter(pc.not_equal(rows["role"], "user"))
    if len(users) < 2 or len(core) < 2:
        raise UnusableData(f"The demo needs rows with role core and role user; the file has {len(core)} and {len(users)}.")
    subject = _nearest(users, others) if "subject_id" in named else None
    if subject is not None:
        gone = users.filter(pc.equal(users["subject_id"], subject))["sample_id"].to_pylist()
    else:
        count = min(GONE, len(users) // 2)
        gone = users["sample_id"].take(np.random.default_rng(seed).choice(len(users), count, replace=False)).to_pylist()
    image = len(layout.shape) == 3 and min(layout.shape[1:]) >= SMALLEST_IMAGE
    return Plan(path, "convnet" if image else "mlp", len(users), subject, tuple(gone))


def _nearest(users: pa.Table, others: pa.Table) -> str | None:
    counts = {c["values"]: c["counts"] for c in users["subject_id"].value_counts().to_pylist() if c["values"] is not None}
    suitable = [name for name in counts.keys() - set(others["subject_id"].to_pylist()) if counts[name] < len(users)]
    return min(suitable, key=lambda name: (abs(counts[name] - GONE), name), default=None)
