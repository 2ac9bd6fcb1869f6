"""Tasks with a private attribute, from the benchmark data: rows to learn from, and rows that nothing has learnt from to judge with."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmarks.biased import Sizes, mnist
from benchmarks.data import VARIABLE, DataMissing, folder
from models.data import Samples
from models.erase.attribute import Attributed
from models.nets import Architecture
from models.train import Training

SIDE = 32  # pixels that faces are scaled to
RARE = 20  # rows below which a category has no column of its own
OTHERS = "other"
NETWORK = "network"


@dataclass(frozen=True)
class Task:
    """One label against one attribute."""

    name: str
    told: str
    """Label against attribute, and whether the attribute is among the inputs."""

    values: int
    read: Callable[[int], Rows]
    """Draws the rows, by a seed."""

    scope: str = "bottleneck"
    """Where IRENE and Learning Not to Learn are trained."""


@dataclass(frozen=True)
class Rows:
    """Rows of one seed."""

    core: Attributed
    audit: Attributed
    """Half of them teach the fresh probes, the other half is judged on."""

    usual: Attributed
    """Rows as they come, for the task's accuracy: where the bias is built in, with the bias."""

    architecture: Architecture
    training: Training


def table_of(name: str) -> pa.Table:
    path = folder() / f"{name}.parquet"
    if not path.exists():
        raise DataMissing(f"{name}.parquet is not in the folder that {VARIABLE} names")
    return pq.read_table(path)


def biased_mnist(rho: float) -> Callable[[int], Rows]:
    def read(seed: int) -> Rows:
        data = mnist(rho, Sizes(core=5000, user=1000, audit=5000), seed=seed)
        architecture = Architecture(name="convnet", input_shape=(3, 28, 28), classes=10, hidden=(16, 32, 32, 64))
        return Rows(data.core, data.audit, data.user, architecture, Training(epochs=6, augment=False, seed=seed))

    return read


def columns(parts: Sequence[pa.Table], numbers: Sequence[str], categories: Sequence[str]) -> list[Tensor]:
    """Return features of tables, scaled and one-hot encoded by the first: `[n, k]` float32 each."""
    found: list[list[NDArray[np.float64]]] = [[] for _ in parts]
    for name in numbers:
        raw = [np.nan_to_num(part[name].to_numpy(zero_copy_only=False).astype(np.float64)) for part in parts]
        mean, scale = raw[0].mean(), raw[0].std() or 1.0
        for out, value in zip(found, raw, strict=True):
            out.append(((value - mean) / scale)[:, None])
    for name in categories:
        text = [np.array([str(cell) for cell in part[name].to_pylist()]) for part in parts]
        kept = [one for one, count in zip(*np.unique(text[0], return_counts=True), strict=True) if count >= RARE]
        for out, cells in zip(found, text, strict=True):
            out.append((cells[:, None] == np.array(kept)[None, :]).astype(np.float64))
    return [torch.from_numpy(np.concatenate(out, axis=1)).float() for out in found]


def rows_of(inputs: Tensor, label: Sequence[int], value: Sequence[str], names: Sequence[str], prefix: str) -> Attributed:
    """Return rows whose attribute is one of these names; the last name stands for every other value if it is `other`."""
    rest = len(names) - 1 if names[-1] == OTHERS else -1
    values = torch.tensor([names.index(one) if one in names else rest for one in value])
    return Attributed(Samples(inputs, torch.tensor(label), tuple(f"{prefix}-{i}" for i in range(len(inputs)))), values)


def tabular(core: pa.Table, audit: pa.Table, *, label: str, attribute: str, names: tuple[str, ...], numbers: Sequence[str],
            categories: Sequence[str], epochs: int, seed: int) -> Rows:  # fmt: skip
    inputs = columns((core, audit), numbers, categories)
    learnt, held = (
        rows_of(x, part[label].to_pylist(), part[attribute].to_pylist(), names, prefix)
        for x, part, prefix in zip(inputs, (core, audit), ("core", "audit"), strict=True)
    )
    architecture = Architecture(name="mlp", input_shape=(inputs[0].shape[1],), classes=2)
    return Rows(learnt, held, held, architecture, Training(epochs=epochs, batch=128, augment=False, seed=seed))


def adult(attribute: str, names: tuple[str, ...], *, told: bool) -> Callable[[int], Rows]:
    numbers = ("age", "education_num", "capital_gain", "capital_loss", "hours_per_week")
    categories = ["workclass", "marital_status", "occupation", "relationship", "race", "sex", "native_country"]
    if not told:
        categories.remove(attribute)

    def read(seed: int) -> Rows:
        draw = np.random.default_rng(seed)
        core, audit = table_of("adult/train"), table_of("adult/test")
        core, audit = core.take(draw.permutation(len(core))[:16_000]), audit.take(draw.permutation(len(audit))[:12_000])
        return tabular(core, audit, label="income_gt_50k", attribute=attribute, names=names, numbers=numbers, categories=categories,
                       epochs=10, seed=seed)  # fmt: skip

    return read


def compas(*, told: bool) -> Callable[[int], Rows]:
    names = ("African-American", "Caucasian")
    numbers = ("age", "priors_count", "juv_fel_count", "juv_misd_count", "juv_other_count")
    categories = ["c_charge_degree", "sex", "age_cat", *(["race"] if told else [])]

    def read(seed: int) -> Rows:
        rows = table_of("compas/compas_two_years")
        rows = rows.filter(pc.and_(rows["propublica_filter"], pc.is_in(rows["race"], pa.array(names))))
        order = np.random.default_rng(seed).permutation(len(rows))
        core, audit = rows.take(order[: len(rows) // 2]), rows.take(order[len(rows) // 2 :])
        return tabular(core, audit, label="two_year_recid", attribute="race", names=names, numbers=numbers, categories=categories,
                       epochs=20, seed=seed)  # fmt: skip

    return read


def faces(seed: int) -> Rows:
    """CelebA: blond hair against sex, 10,000 faces; nobody is both learnt from and judged on."""
    both = pa.concat_tables([table_of("celeba_10k/train"), table_of("celeba_10k/test")], promote_options="default")
    people = np.array(both["identity"].to_pylist())
    names = np.random.default_rng(seed).permutation(np.unique(people))
    learnt = np.isin(people, names[: len(names) // 2])
    parts = []
    for rows, prefix in ((np.flatnonzero(learnt), "core"), (np.flatnonzero(~learnt), "audit")):
        part = both.take(rows)
        pixels = np.stack([_face(cell) for cell in part["image"].to_pylist()]).transpose(0, 3, 1, 2)
        label, value = ([int(cell > 0) for cell in part[name].to_pylist()] for name in ("Blond_Hair", "Male"))
        inputs = torch.from_numpy(np.ascontiguousarray(pixels))
        parts.append(rows_of(inputs, label, [str(one) for one in value], ("0", "1"), prefix))
    architecture = Architecture(name="convnet", input_shape=(3, SIDE, SIDE), classes=2, hidden=(16, 32, 32, 64))
    return Rows(parts[0], parts[1], parts[1], architecture, Training(epochs=8, augment=False, flip=False, seed=seed))


def _face(cell: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(cell)) as image:
        return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR), dtype=np.uint8)


RACES = ("White", "Black", OTHERS)
TASKS = (
    Task("biased-mnist-.99", "digit against background colour, rho .99; 5,000 core and 5,000 audit rows", 10, biased_mnist(0.99), NETWORK),
    Task("biased-mnist-.997", "the same with rho .997", 10, biased_mnist(0.997), NETWORK),
    Task("celeba", "blond hair against sex, 10,000 faces at 32 x 32 pixels, half of the people each", 2, faces),
    Task("adult-sex", "income against sex, which is not among the inputs; 16,000 core and 12,000 audit rows", 2,
         adult("sex", ("Female", "Male"), told=False)),
    Task("adult-race", "income against race (White, Black, other), which is among the inputs; rows as above", 3,
         adult("race", RACES, told=True)),
    Task("compas", "reoffending against race (two groups), which is among the inputs; halves of 5,278 rows", 2, compas(told=True)),
    Task("compas-blind", "reoffending against race, which is not among the inputs; halves of 5,278 rows", 2, compas(told=False)),
)  # fmt: skip
