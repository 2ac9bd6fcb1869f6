"""How much of a private value fresh readers still find in features: V-information with its limits, balanced over label and value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped, unused-ignore]
from torch import Tensor
from torch.nn import functional

from models.audit.balance import LEVEL, Matrix, Population, balanced, limits
from models.audit.readers import READERS, Lesson, read
from models.progress import Progress, Stop, check, never, silent
from models.train import threads

CALIBRATION = 0.25  # share of the training rows that settle sharpness and stopping
HEAVIEST = 20.0  # the weight of a training row, in means: without a limit, one row of a rare cell would be all that a reader learns
RESAMPLES = 1000
MOST_VALUES = 20
PHASE = "probe"


@dataclass(frozen=True)
class Held:
    """Rows with a known value that the network was not trained on."""

    features: Tensor
    """`[n, d]` float32: what is read, such as the bottleneck's activations as they are served."""

    values: Tensor
    """`[n]` int64, indices into the attribute's values."""

    labels: Tensor
    """`[n]` int64."""

    def __post_init__(self) -> None:
        """Refuse rows that do not belong together.

        Raises:
            ValueError: on another shape, unequal lengths, a missing value, or a feature that is not finite.
        """
        if self.features.dim() != 2 or not len(self.features) == len(self.values) == len(self.labels):
            raise ValueError(f"{list(self.features.shape)} features, {len(self.values)} values and {len(self.labels)} labels do not fit")
        if len(self.values) and int(torch.min(self.values.min(), self.labels.min())) < 0:
            raise ValueError("a value or label is negative: rows without a value cannot be audited")
        if not bool(torch.isfinite(self.features).all()):
            raise ValueError("a feature is not finite")

    def __len__(self) -> int:
        return len(self.values)

    def select(self, rows: Tensor) -> Held:
        """Keep the rows chosen by a mask or by number."""
        return Held(self.features[rows], self.values[rows], self.labels[rows])


@dataclass(frozen=True)
class Probe:
    """What one fresh reader found. Nats; the intervals are over new rows of the same kind, for this trained reader."""

    name: str
    """linear, mlp or trees."""

    v_information: float
    """H(v) - cross-entropy: at most I(h; v), and about 0 or slightly below where nothing is found."""

    ci95: tuple[float, float]
    """Two-sided, for this reader alone; cut at H(v)."""

    upper95: float
    """One-sided, at `Probed.level`; simultaneous over the readers, and cut at H(v), which no reader's V-information exceeds."""

    lower95: float
    """One-sided; simultaneous over the readers."""

    balanced_accuracy: float
    """Mean over the values of the share of rows named rightly."""

    majority: float
    """The share of the commonest value: what always naming it gets right."""

    conditional: float | None
    """H(v | y) - cross-entropy of a reader that is given the label too: an estimate of I(h; v | y). None where it was not asked for."""

    conditional_ci95: tuple[float, float] | None


@dataclass(frozen=True)
class Probed:
    """What fresh readers find of a value in features, in the population in which every cell (label, value) weighs the same."""

    probes: tuple[Probe, ...]

    n: int
    """Balanced test rows that the test rows are worth: as many in equal cells would give as wide an interval."""

    rows: int
    """Test rows used."""

    entropy: float
    """H(v) in nats: ln K where no cell is left out."""

    label_information: float
    """I(y; v) of the judged population in nats: 0 unless cells are left out. Features that tell the label leak at least this."""

    left_out: tuple[tuple[int, int, int], ...]
    """(label, value, test rows) of each cell with too few test rows; nothing is said about it."""

    level: float
    """Of the upper limits: .95, and more where rows were looked at before, so that 95 % hold over all looks."""

    @property
    def leakage(self) -> float:
        """The largest V-information."""
        return max(probe.v_information for probe in self.probes)

    @property
    def upper(self) -> float:
        """With 95 % confidence, or `level`, no reader's V-information is above this. It bounds these readers, not I(h; v)."""
        return max(probe.upper95 for probe in self.probes)

    @property
    def cut(self) -> bool:
        """Whether the upper limit is H(v), and so says nothing."""
        return self.upper >= self.entropy

    @property
    def lower(self) -> float:
        """With 95 % confidence I(h; v) is at least this (and it is at least 0)."""
        return max(0.0, *(probe.lower95 for probe in self.probes))

    @property
    def best(self) -> Probe:
        """The reader that found most."""
        return max(self.probes, key=lambda probe: probe.v_information)

    def about(self, claim: str) -> Probed:
        """The readers that a claim is about: `linear` ones, or `any`."""
        return self if claim == "any" else replace(self, probes=tuple(probe for probe in self.probes if probe.name == claim))


def probe(
    train: Held,
    test: Held,
    *,
    values: int,
    classes: int,
    seed: int,
    resamples: int = RESAMPLES,
    conditional: bool = True,
    readers: Sequence[str] = tuple(READERS),
    level: float = LEVEL,
    progress: Progress = silent,
    stop: Stop = never,
) -> Probed:
    """Train fresh readers of the value on some held-out rows and judge them on others, balanced over (label, value).

    H(v) - CE is a lower bound of I(h; v) for any reader; each reader's sharpness is settled on a quarter of its own training rows, so
    that an overfit reader cannot hide a leak behind a large cross-entropy.

    Args:
        train: rows that the network was not trained on, for the readers.
        test: further such rows, disjoint from `train`.
        values: K, 2 to 20.
        classes: C.
        seed: with the rows it determines the answer to the bit, on one thread.
        resamples: bootstrap resamples within cells.
        conditional: train the readers once more with the label beside the features.
        readers: names in `READERS`.
        level: of the upper limits; `models.audit.balance.level_after` says which where the test rows were looked at before.

    Raises:
        ValueError: if fewer than two values have test rows enough, or a value or label is out of range.
        Stopped: when `stop` answers True.

    Source: Xu et al., A theory of usable information, ICLR 2020, section 3. https://arxiv.org/abs/2002.10689
    """
    _refuse(train, test, values, classes)
    population = balanced(test.values, test.labels, values=values, classes=classes)
    steps, done = len(readers) * (2 if conditional else 1), 0
    found: dict[bool, list[Matrix]] = {False: [], True: []}
    accuracies = []
    with threads(1), threadpool_limits(limits=1):
        for told in (False, True) if conditional else (False,):
            lesson = _lesson(train, population, values=values, classes=classes, seed=seed, told=told)
            features = _told(test, classes, like=train) if told else test.features
            for name in readers:
                check(stop)
                answers = read(READERS[name], lesson, features, seed=seed, stop=stop)
                found[told].append(answers.gather(1, test.values[:, None]).squeeze(1).numpy())
                if not told:
                    accuracies.append(_balanced_accuracy(answers, test.values, population))
                done += 1
                progress(PHASE, done / steps)
    gains = np.stack(found[False], axis=1) + population.entropy  # [n, readers]
    given = np.stack(found[True], axis=1) + population.conditional_entropy if conditional else None
    return _answer(tuple(readers), gains, given, accuracies, population, seed=seed, resamples=resamples, level=level)


def _answer(
    readers: tuple[str, ...],
    gains: Matrix,
    given: Matrix | None,
    accuracies: list[float],
    population: Population,
    *,
    seed: int,
    resamples: int,
    level: float,
) -> Probed:
    alone = limits(gains, population, seed=seed, resamples=resamples, level=level)
    beside = limits(given, population, seed=seed + 1, resamples=resamples) if given is not None else None
    probes = tuple(
        Probe(
            name=name,
            v_information=float(alone.estimate[i]),
            ci95=_below(alone.ci95[i], population.entropy),
            upper95=min(float(alone.upper[i]), population.entropy),
            lower95=float(alone.lower[i]),
            balanced_accuracy=accuracies[i],
            majority=float(population.marginal.max()),
            conditional=None if beside is None else float(beside.estimate[i]),
            conditional_ci95=None if beside is None else _below(beside.ci95[i], population.conditional_entropy),
        )
        for i, name in enumerate(readers)
    )
    information = max(0.0, population.entropy - population.conditional_entropy)
    used = sum(len(rows) for rows in population.cells)
    information = information if population.left_out else 0.0
    return Probed(probes, population.n, used, population.entropy, information, population.left_out, level)


def _below(ci95: tuple[float, float], most: float) -> tuple[float, float]:
    return min(ci95[0], most), min(ci95[1], most)


def _refuse(train: Held, test: Held, values: int, classes: int) -> None:
    if not 2 <= values <= MOST_VALUES:
        raise ValueError(f"an attribute has 2 to {MOST_VALUES} values, not {values}")
    if train.features.shape[1] != test.features.shape[1]:
        raise ValueError(f"{train.features.shape[1]} features to learn from and {test.features.shape[1]} to judge on are not the same")
    for name, rows in (("training", train), ("test", test)):
        if not len(rows):
            raise ValueError(f"there are no {name} rows")
        if int(rows.values.max()) >= values or int(rows.labels.max()) >= classes:
            raise ValueError(f"a {name} row's value or label is outside the {values} values and {classes} classes")


def _told(rows: Held, classes: int, *, like: Held) -> Tensor:
    """Return the features with the label beside them, as large as an average feature of the rows `like`."""
    scale = like.features.std(dim=0).mean().clamp(min=1e-3)
    return torch.cat([rows.features, scale * functional.one_hot(rows.labels, classes)], dim=1)


def _lesson(train: Held, population: Population, *, values: int, classes: int, seed: int, told: bool) -> Lesson:
    """Divide the readers' rows into those that fit and those that calibrate, the same share of every cell."""
    cell = (train.labels * values + train.values).numpy()
    order = np.random.default_rng(seed).permutation(len(cell))
    counts = np.bincount(cell, minlength=classes * values)
    weights = np.minimum((counts.sum() / (counts > 0).sum()) / counts[cell], HEAVIEST)
    calibrates = np.zeros(len(cell), dtype=bool)
    for number in np.flatnonzero(counts):
        rows = order[cell[order] == number]
        calibrates[rows[: int(CALIBRATION * len(rows))]] = True
    if not calibrates.any():
        raise ValueError("there are too few training rows to calibrate on: some cell needs at least 4")
    inputs = (_told(train, classes, like=train) if told else train.features).float()
    fits, weigh = torch.from_numpy(~calibrates), torch.from_numpy(weights).float()
    prior = torch.from_numpy(np.log(np.maximum(population.marginal, 1e-9)))
    parts = [(inputs[rows], train.values[rows], weigh[rows] / weigh[rows].mean()) for rows in (fits, ~fits)]
    return Lesson(*parts[0], *parts[1], values, prior)


def _balanced_accuracy(answers: Tensor, values: Tensor, population: Population) -> float:
    right = (answers.argmax(dim=1) == values).numpy().astype(np.float64) * population.weights
    marginal = population.marginal
    each = np.bincount(values.numpy(), weights=right, minlength=len(marginal))
    return float((each[marginal > 0] / marginal[marginal > 0]).mean())
