"""Digits on coloured backgrounds: the colour goes with the label in a share rho of the rows, so that a network may read it instead.

    python -m benchmarks.biased digits .99 digits.parquet
    python -m benchmarks.biased mnist .997 mnist.parquet --core 3000 --user 3000 --audit 4000

The file is an upload as the service takes it: core and user rows biased by rho, audit rows with colours drawn evenly, `attr_colour` the
attribute. `mnist` needs the benchmark data, `digits` nothing.

Source of the construction: Bahng et al., ICML 2020, section 4.2 (Biased-MNIST): white digits, ten colours, the other nine equally common
where the colour does not go with the label. https://arxiv.org/abs/1910.02806
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from benchmarks.data import images
from models.data import Samples
from models.erase.attribute import Attributed

COLOURS = (
    ("red", (255, 0, 0)), ("green", (0, 255, 0)), ("blue", (0, 0, 255)), ("yellow", (225, 225, 0)), ("magenta", (225, 0, 225)),
    ("cyan", (0, 255, 255)), ("orange", (255, 128, 0)), ("rose", (255, 0, 128)), ("violet", (128, 0, 255)), ("gray", (128, 128, 128)),
)  # fmt: skip
"""Name and RGB, in the order of the labels they go with."""

EVEN = 0.1  # rho at which every colour is as common as any other
CORE, USER, AUDIT = "core", "user", "audit"


@dataclass(frozen=True)
class Sizes:
    """How many rows of each role."""

    core: int
    user: int
    audit: int


@dataclass(frozen=True)
class Biased:
    """Rows by role."""

    core: Attributed
    user: Attributed
    audit: Attributed
    """Colours drawn evenly: a network that reads the colour is wrong here nine times in ten."""


def colours_of(labels: Tensor, rho: float, generator: torch.Generator) -> Tensor:
    """Draw a colour for each label `[n]`: its own in a share rho of each label's rows, as near as counts allow, else one of the others.

    Args:
        rho: from 0 to 1; .1 draws evenly.
    """
    if not 0 <= rho <= 1:
        raise ValueError(f"rho lies between 0 and 1, not at {rho}")
    out = labels.clone()
    for label in range(len(COLOURS)):
        rows = (labels == label).nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)]
        free = rows[round(rho * len(rows)) :]
        others = torch.arange(len(free)) % (len(COLOURS) - 1)
        others = others[torch.randperm(len(free), generator=generator)]
        out[free] = others + (others >= label)
    return out


def coloured(ink: Tensor, colours: Tensor) -> Tensor:
    """Paint white ink on backgrounds of these colours.

    Args:
        ink: `[n, H, W]` from 0 (background) to 1 (digit).
        colours: `[n]` indices.

    Returns:
        `[n, 3, H, W]` uint8.
    """
    palette = torch.tensor([rgb for _, rgb in COLOURS], dtype=torch.float32)[colours]  # [n, 3]
    share = ink[:, None]
    return (share * 255 + (1 - share) * palette[:, :, None, None]).round().to(torch.uint8)


def mnist(rho: float, sizes: Sizes, *, seed: int) -> Biased:
    """Colour MNIST: core and user rows from its training part, audit rows from its test part, drawn anew for every seed.

    Raises:
        DataMissing: without the benchmark data.
    """
    train, test = images("mnist", "train"), images("mnist", "test")
    return biased((train.inputs[:, 0] > 0).float(), train.labels, (test.inputs[:, 0] > 0).float(), test.labels, rho, sizes, seed=seed)


def digits(rho: float, sizes: Sizes | None = None, *, seed: int = 0, copies: int = 1) -> Biased:
    """Colour scikit-learn's 1,797 digits of 8 x 8 pixels, painted as strongly as they are written; no files needed.

    Args:
        copies: how often each core digit is painted, each time by a colour of its own: 900 digits alone have nine of another colour.
    """
    raw = load_digits()
    order = np.random.default_rng(1000 + seed).permutation(len(raw.target))
    ink, labels = torch.from_numpy(raw.images[order] / 16).float(), torch.from_numpy(raw.target[order].astype(np.int64))
    sizes = sizes or Sizes(core=900, user=200, audit=697)
    trained = sizes.core + sizes.user
    return biased(ink[:trained], labels[:trained], ink[trained:], labels[trained:], rho, sizes, seed=seed, copies=copies)


def biased(
    ink: Tensor, labels: Tensor, test_ink: Tensor, test_labels: Tensor, rho: float, sizes: Sizes, *, seed: int, copies: int = 1
) -> Biased:
    """Draw rows of each role and paint them, core rows `copies` times."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    parts = {CORE: order[: sizes.core].repeat(copies), USER: order[sizes.core : sizes.core + sizes.user]}
    found = {
        role: painted(ink[rows], labels[rows], colours_of(labels[rows], rho, generator), role, generator) for role, rows in parts.items()
    }
    rows = torch.randperm(len(test_labels), generator=generator)[: sizes.audit]
    if len(parts[USER]) < sizes.user or len(rows) < sizes.audit:
        raise ValueError(f"there are {len(labels)} rows to learn from and {len(test_labels)} to audit, fewer than asked for")
    even = colours_of(test_labels[rows], EVEN, generator)
    return Biased(found[CORE], found[USER], painted(test_ink[rows], test_labels[rows], even, AUDIT, generator))


def painted(ink: Tensor, labels: Tensor, colours: Tensor, role: str, generator: torch.Generator) -> Attributed:
    """Return painted rows in a random order."""
    order = torch.randperm(len(labels), generator=generator)
    inputs = coloured(ink[order], colours[order])
    return Attributed(Samples(inputs, labels[order], tuple(f"{role}-{i:05}" for i in range(len(order)))), colours[order])


def table(data: Biased) -> pa.Table:
    """Return the rows as the upload that the service takes."""
    roles = {CORE: data.core, USER: data.user, AUDIT: data.audit}
    columns: dict[str, list[object]] = {name: [] for name in ("sample_id", "role", "label", "attr_colour", "image")}
    for role, rows in roles.items():
        columns["sample_id"] += rows.samples.ids
        columns["role"] += [role] * len(rows)
        columns["label"] += rows.samples.labels.tolist()
        columns["attr_colour"] += [COLOURS[value][0] if value >= 0 else None for value in rows.values.tolist()]
        columns["image"] += [image.tobytes() for image in rows.samples.inputs.permute(0, 2, 3, 1).contiguous().numpy()]
    types = {"sample_id": pa.string(), "role": pa.string(), "label": pa.int64(), "attr_colour": pa.string(), "image": pa.binary()}
    height, width = data.core.samples.inputs.shape[2:]
    facts = {"image_encoding": "raw_uint8", "height": str(height), "width": str(width), "channels": "3"}
    return pa.table({name: pa.array(values, types[name]) for name, values in columns.items()}).replace_schema_metadata(facts)


def without_values(rows: Attributed, share: float, *, seed: int) -> Attributed:
    """Take the value away from a share of the rows, as uploads that lack it do."""
    gone = torch.rand(len(rows), generator=torch.Generator().manual_seed(seed)) < share
    return replace(rows, values=torch.where(gone, -1, rows.values))


def main(arguments: list[str]) -> int:
    """Write one upload."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.biased", description="Digits on coloured backgrounds, as an upload.")
    parser.add_argument("source", choices=("digits", "mnist"))
    parser.add_argument("rho", type=float)
    parser.add_argument("file", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    for role, rows in ((CORE, 3000), (USER, 3000), (AUDIT, 4000)):
        parser.add_argument(f"--{role}", type=int, default=rows, help=f"{role} rows of mnist, default {rows:,}")
    asked = parser.parse_args(arguments)
    sizes = Sizes(core=asked.core, user=asked.user, audit=asked.audit)
    data = digits(asked.rho, seed=asked.seed) if asked.source == "digits" else mnist(asked.rho, sizes, seed=asked.seed)
    pq.write_table(table(data), asked.file)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
