"""Real images for the benchmarks, from the folder that `EXPUNGE_BENCH_DATA` names; there is no other source."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image

from models.data import Samples

VARIABLE = "EXPUNGE_BENCH_DATA"


class DataMissing(Exception):
    """The folder, or a file in it, is not there: the benchmark is skipped, and says so."""


def folder() -> Path:
    """Return the folder of the benchmark data.

    Raises:
        DataMissing: the variable is unset, or names no folder.
    """
    named = os.environ.get(VARIABLE)
    if not named or not Path(named).is_dir():
        raise DataMissing(f"set {VARIABLE} to the folder with fashion_mnist/, mnist/ and cifar10/")
    return Path(named)


def images(data_set: str, part: str) -> Samples:
    """Read a Parquet file of images as samples, in the order of the file.

    Args:
        data_set: folder name, such as `fashion_mnist`.
        part: file name without its ending, such as `train`.

    Returns:
        inputs `[n, C, H, W]` uint8, labels, ids.

    Raises:
        DataMissing: there is no such file.
    """
    path = folder() / data_set / f"{part}.parquet"
    if not path.exists():
        raise DataMissing(f"{data_set}/{part}.parquet is not in the folder that {VARIABLE} names")
    table = pq.read_table(path, columns=["sample_id", "label", "image"])
    facts = {key.decode(): value.decode() for key, value in (pq.read_schema(path).metadata or {}).items() if not key.startswith(b"ARROW")}
    shape = (int(facts["height"]), int(facts["width"]), int(facts["channels"]))
    pixels = np.stack([_pixels(cell, facts["image_encoding"], shape) for cell in table["image"].to_pylist()])
    inputs = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    return Samples(inputs, torch.from_numpy(table["label"].to_numpy().astype(np.int64)), tuple(table["sample_id"].to_pylist()))


def _pixels(cell: bytes, encoding: str, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    if encoding == "raw_uint8":
        return np.frombuffer(cell, np.uint8).reshape(shape)
    with Image.open(io.BytesIO(cell)) as image:
        return np.asarray(image.convert("RGB" if shape[2] == 3 else "L"), dtype=np.uint8).reshape(shape)


def draw(samples: Samples, sizes: tuple[int, ...], *, seed: int) -> tuple[Samples, ...]:
    """Draw disjoint parts of these sizes, at random.

    Raises:
        ValueError: there are fewer samples than asked for.
    """
    if sum(sizes) > len(samples):
        raise ValueError(f"{sum(sizes)} samples asked for, {len(samples)} there")
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))[: sum(sizes)]
    return tuple(samples.select(part) for part in torch.split(order, list(sizes)))
