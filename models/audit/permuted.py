"""What fresh readers find where there is nothing to find: the same rows, with the values dealt out anew."""

from __future__ import annotations

import numpy as np
import torch

from models.audit.balance import LEVEL
from models.audit.probe import Held, Probed, probe
from models.progress import Progress, Stop, never, silent

TIMES = 5
"""How often the values are dealt out: a reader that finds nothing exceeds all five once in six."""

RESAMPLES = 200
PHASE = "permuted values"


def permuted(
    train: Held,
    test: Held,
    *,
    values: int,
    classes: int,
    seed: int,
    times: int = TIMES,
    level: float = LEVEL,
    progress: Progress = silent,
    stop: Stop = never,
) -> tuple[Probed, ...]:
    """Probe again with each label's values dealt out at random among its rows, each time by another seed.

    Features, sizes and the counts of all cells (label, value) stay as they are. Given the label the values then have nothing to do with the
    features, so what readers find is their own bias: it is often below 0. No network is trained again: what varies is the reading.

    Args:
        train, test, values, classes: those of the audit itself.
        seed: of the first deal is the next one.
        level: of the upper limits.
    """
    found = []
    for number in range(times):
        generator = np.random.default_rng([seed, number])
        dealt = (_dealt(rows, generator) for rows in (train, test))
        seen = probe(*dealt, values=values, classes=classes, seed=seed + 1 + number, resamples=RESAMPLES, level=level, stop=stop)
        found.append(seen)
        progress(PHASE, (number + 1) / times)
    return tuple(found)


def _dealt(rows: Held, generator: np.random.Generator) -> Held:
    values = rows.values.clone()
    for label in torch.unique(rows.labels):
        places = torch.nonzero(rows.labels == label).squeeze(1)
        values[places] = rows.values[places[torch.from_numpy(generator.permutation(len(places)))]]
    return Held(rows.features, values, rows.labels)
