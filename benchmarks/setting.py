"""What `forget` is measured on: a core, user rows with and without their integers, and which of them go; in memory and as files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.data import draw
from benchmarks.outcome import progress
from models.data import Samples
from models.linear.core import Core, core_statistics, core_tensors, encode, fit_core, load_core
from models.linear.statistics import Rows, Statistics, add
from models.nets import Architecture
from models.train import Training

PART = 8192
"""User rows read through the core at once, as the service does: their activations need not all exist together."""


@dataclass(frozen=True)
class Form:
    """One choice of features."""

    name: str
    hidden: tuple[int, ...] | None = None
    taps: tuple[str, ...] | None = None
    network: str = "convnet"
    core_epochs: int = 8
    """Half of the default, or less, since accuracy is not the point here: seconds are the same for any weights."""

    def architecture(self, shape: tuple[int, ...], classes: int) -> Architecture:
        return Architecture(name=self.network, input_shape=shape, classes=classes, hidden=self.hidden, taps=self.taps)


FORMS = (Form("default"), Form("last stage", taps=("stage4",)))
"""The product's default; and the last stage alone, a third of the default's features."""

WIDE = Form("wide", hidden=(24, 24, 48, 48))
"""Half as many channels again, for the full run."""

DEARER = Form("resnet20", taps=("layer3",), network="resnet20", core_epochs=2)
"""A network that costs more to read a row with, as networks in use do, and its last stage: forgetting reads no row. For the full run."""

ALL_FORMS = (*FORMS, WIDE, DEARER)


@dataclass(frozen=True)
class Setting:
    """A fitted core and encoded user rows."""

    core: Core
    begun: Statistics
    """The sums over the core rows."""
    user: Samples
    rows: Rows
    """The user rows as integers, in the same order."""
    test: Samples


def prepare(form: Form, data: Samples, test: Samples, *, core_rows: int, user_rows: int, training: Training) -> Setting:
    """Fit the core by the product's own rules and encode the user rows.

    Args:
        training: of the core; enough that the features are those of a trained network.
    """
    core_samples, user = draw(data, (core_rows, user_rows), seed=0)
    architecture = form.architecture(tuple(data.inputs.shape[1:]), int(data.labels.max()) + 1)
    progress(f"{form.name}: training the core on {core_rows:,} rows")
    core = fit_core(architecture, core_samples, training, expected_rows=user_rows)
    progress(f"{form.name}: d = {core.d}, L = {core.ridge:g}; encoding {user_rows:,} rows")
    return Setting(core, core_statistics(core, core_samples.inputs), user, encoded(core, user), test)


def encoded(core: Core, samples: Samples) -> Rows:
    """Encode samples part by part."""
    parts = [encode(core, samples.inputs[i : i + PART], samples.labels[i : i + PART]) for i in range(0, len(samples), PART)]
    return Rows(torch.cat([p.features for p in parts]), torch.cat([p.targets for p in parts]), sum(p.saturated for p in parts))


@dataclass(frozen=True)
class Case:
    """One request: of the first n user rows, k chosen at random are to go."""

    core: Core
    begun: Statistics
    statistics: Statistics
    """Over core and all n user rows."""
    gone: Rows
    kept: Rows
    kept_samples: Samples


def case(setting: Setting, statistics: Statistics, *, n: int, k: int) -> Case:
    """Choose k of the first n rows, by a seed of their own.

    Args:
        statistics: over the core rows and these n rows.
    """
    leaves = torch.zeros(n, dtype=torch.bool)
    leaves[torch.randperm(n, generator=torch.Generator().manual_seed(1000 * k + 1))[:k]] = True
    rows = Rows(setting.rows.features[:n], setting.rows.targets[:n])
    stays = (~leaves).nonzero().flatten()
    return Case(
        setting.core,
        setting.begun,
        statistics,
        Rows(rows.features[leaves], rows.targets[leaves]),
        Rows(rows.features[stays], rows.targets[stays]),
        setting.user.select(stays),
    )


def statistics_at(setting: Setting, sizes: tuple[int, ...]) -> dict[int, Statistics]:
    """Return the sums over the core rows and the first n user rows, for every n of the ascending sizes."""
    found, done, sums = {}, 0, setting.begun
    for n in sizes:
        sums = add(sums, Rows(setting.rows.features[done:n], setting.rows.targets[done:n]))
        found[n], done = sums, n
    return found


def write_case(folder: Path, case: Case) -> None:
    """Write a case so that fresh processes can load the part of it that they need."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(core_tensors(case.core), folder / "core.safetensors")
    (folder / "architecture.json").write_text(json.dumps(asdict(case.core.architecture)))
    for name, sums in (("begun", case.begun), ("statistics", case.statistics)):
        save_file({"A": sums.A, "B": sums.B, "rows": torch.tensor(sums.rows)}, folder / f"{name}.safetensors")
    for name, rows in (("gone", case.gone), ("kept", case.kept)):
        save_file({"features": rows.features.contiguous(), "targets": rows.targets.contiguous()}, folder / f"{name}.safetensors")
    save_file({"inputs": case.kept_samples.inputs.contiguous(), "labels": case.kept_samples.labels}, folder / "samples.safetensors")


def read_core(folder: Path) -> Core:
    written: dict[str, Any] = json.loads((folder / "architecture.json").read_text())
    form: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in written.items()}
    architecture = Architecture(**form)
    return load_core(architecture, load_file(folder / "core.safetensors"))


def read_statistics(folder: Path, name: str) -> Statistics:
    tensors = load_file(folder / f"{name}.safetensors")
    return Statistics(tensors["A"], tensors["B"], int(tensors["rows"]))


def read_rows(folder: Path, name: str) -> Rows:
    tensors = load_file(folder / f"{name}.safetensors")
    return Rows(tensors["features"], tensors["targets"])


def read_samples(folder: Path) -> Samples:
    tensors = load_file(folder / "samples.safetensors")
    return Samples(tensors["inputs"], tensors["labels"], tuple(map(str, range(len(tensors["labels"])))))


def parts_of(inputs: Tensor, labels: Tensor, core: Core) -> Iterator[Rows]:
    """Encode raw samples part by part, as retraining with feature extraction does."""
    for start in range(0, len(inputs), PART):
        yield encode(core, inputs[start : start + PART], labels[start : start + PART])
