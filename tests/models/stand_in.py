"""Digits as samples, small networks, and the second opinion: a float64 minimiser that shares no code with the one under test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from models.data import Samples
from models.linear.core import Core, core_statistics, encode, fit_core
from models.linear.statistics import Rows, Statistics
from models.nets import Architecture
from models.train import Training

Array = NDArray[np.float64]


def digits(start: int, end: int, prefix: str) -> Samples:
    """Rows of scikit-learn's digits in a fixed random order, as uint8 images `[n, 1, 8, 8]`."""
    raw = load_digits()
    order = np.random.default_rng(5).permutation(len(raw.target))[start:end]
    images = torch.from_numpy((raw.images[order] * 15.9375).astype(np.uint8))[:, None]
    return Samples(images, torch.from_numpy(raw.target[order].astype(np.int64)), tuple(f"{prefix}-{i}" for i in range(len(order))))


@dataclass(frozen=True)
class Fixed:
    """A fitted core with user rows, made once for all tests."""

    core_samples: Samples
    user: Samples
    test: Samples
    core: Core
    begun: Statistics
    rows: Rows

    def part(self, chosen: torch.Tensor) -> Rows:
        """The integer rows chosen by a mask or by row numbers."""
        return Rows(self.rows.features[chosen], self.rows.targets[chosen])


DIGITS = Architecture(name="convnet", input_shape=(1, 8, 8), classes=10, hidden=(8, 8, 12, 12))
QUICK = Training(epochs=4, rate=0.1, seed=3)


def make_fixed() -> Fixed:
    """A small convolutional core on 400 digits, and 300 user digits of which the first 30 are mislabelled."""
    torch.set_num_threads(1)
    core_samples, user, test = digits(0, 400, "core"), digits(400, 700, "user"), digits(1300, 1797, "test")
    labels = user.labels.clone()
    labels[:30] = (labels[:30] + 1 + torch.arange(30) % 9) % 10
    user = Samples(user.inputs, labels, user.ids)
    core = fit_core(DIGITS, core_samples, QUICK, expected_rows=300, ridge=10.0)
    return Fixed(core_samples, user, test, core, core_statistics(core, core_samples.inputs), encode(core, user.inputs, user.labels))


def gradient(core: Core, core_rows: Rows, kept: Rows, weights: Array, *, ridge: float | None = None) -> Array:
    """Return the gradient `[d, C]` of the retained loss at `weights`, from the rows themselves, in float64 and numpy alone.

    g = sum_kept s q (s q^T w - s_r r) + sum_core s q (s q^T w) + L w
    """
    q, k = core.feature_scale * kept.features.numpy().astype(float), core.feature_scale * core_rows.features.numpy().astype(float)
    r = core.target_scale * kept.targets.numpy().astype(float)
    out: Array = q.T @ (q @ weights - r) + k.T @ (k @ weights) + (core.ridge if ridge is None else ridge) * weights
    return out


def brute_force(core: Core, core_rows: Rows, kept: Rows) -> Array:
    """Return the minimiser of the retained loss by an orthogonal factorisation of the stacked rows, in which no A and no B appear.

    Least squares over  [s q_kept; s q_core; sqrt(L) I] w = [s_r r; 0; 0].
    """
    d, classes = core.d, core.classes
    rows = [core.feature_scale * kept.features.numpy().astype(float), core.feature_scale * core_rows.features.numpy().astype(float)]
    system = np.concatenate([*rows, np.sqrt(core.ridge) * np.eye(d)])
    wanted = np.zeros((len(system), classes))
    wanted[: len(rows[0])] = core.target_scale * kept.targets.numpy().astype(float)
    found: Array = np.linalg.lstsq(system, wanted, rcond=None)[0]
    return found
