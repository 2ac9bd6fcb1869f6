"""Choose L from core rows that the network has not been trained on.

The network knows its own core rows by heart: its error on them says nothing about user rows. So a second network, trained in the
same way on half of the core rows, stands in for the first, and the other half for the users.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.data import Samples
from models.linear.features import FEATURE_SCALE, activations, quantise
from models.linear.frozen import linear_part, one_hot
from models.linear.rows import CoreRows, core_rows, normal_equations
from models.linear.solve import minimise, one_blas_thread
from models.nets import Architecture, build
from models.progress import Progress, Stop, check, never, silent
from models.train import Training, train

GRID = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
"""L is one of these: half a decade apart, since accuracy moves by less than half a point from one to the next."""

FOLDS = 4
MANY = 4  # times the rows of a fold's fit from which on the best L lies clearly below what folds say; at 1.1 times it does not
FEWEST = 8  # rows below which halves and folds of them mean nothing
UNCHOSEN = 100.0  # L on a core that small: the best on Fashion-MNIST
PHASE = "choose ridge"


def choose_ridge(
    architecture: Architecture,
    samples: Samples,
    training: Training,
    *,
    target: float,
    expected_rows: int,
    given: CoreRows | None = None,
    progress: Progress = silent,
    stop: Stop = never,
) -> float:
    """Return the L of `GRID` with the fewest errors on core rows held out, or one of those close to it.

    Errors decide, since accuracy is what is wanted and the least squared error lies at a larger L; but counts within a standard error of
    the fewest are a tie. Where several times more user rows are expected than a fold is fitted to, the smallest tied L is taken: a fold
    has about as many rows as features, where a small L is punished most, and the best L falls as rows come in. Else the one with the
    least squared error, which is far less noisy than a count.

    Half of the core rows (a draw of the training's seed) train a network of their own. The other half is cut into four folds: for
    each, the linear part is fitted to the first half and the other three folds, and tried on the fold. Where the network's weights
    were given, there is none to train, and all core rows are folded.

    Args:
        target: a.
        expected_rows: user rows, as declared when the model was created.
        given: core rows as read through a network that was not trained here.

    Returns:
        L in sum form. It is not multiplied by the number of user rows: the most accurate L falls slowly as rows come in, as the ratio of
        noise to prior variance, which it is in sum form, would stay.

    Measured on Fashion-MNIST with `convnet`, test accuracy of core and user rows fitted together, by L:
        rows              seed       1      3     10     30    100    300  1,000   taken
        2,000 + 10,000       0                  .886   .886   .887   .885   .882
        2,000 + 10,000       1                  .886   .885   .883   .878   .871
        2,000 + 10,000       5    .882   .881   .881   .880   .875   .871             30
        10,000 + 50,000      5    .887   .886   .886                                   1
        Held-out errors of seed 5 alone were fewest at 100, squares at 300. Multiplying L by the ratio of rows (6.7) would have cost .3 to
        1 point, and a plain split of rows that the network was trained on chose 300 and 1,000 for seeds 1 and 0.
    Source of the tie: Breiman et al., Classification and Regression Trees, 1984, section 3.4.3 (one standard error).
    """
    if len(samples) < FEWEST:
        return UNCHOSEN
    generator = torch.Generator().manual_seed(training.seed)
    order = torch.randperm(len(samples), generator=generator)
    if given is not None:
        return _best(given, order[:0], order, samples.labels, expected_rows, progress=progress, stop=stop)
    learned, held = order[: len(order) // 2], order[len(order) // 2 :]
    net = build(architecture, training.seed)
    half = samples.select(learned)
    train(net, half, training, progress=lambda _, done: progress(PHASE, 0.8 * done), stop=stop)
    own = core_rows(net, half, target=target, stop=stop)
    rest = samples.select(held)
    taps, out = activations(net, rest.inputs, stop=stop)
    features, _ = quantise(taps, index=own.index, mean=own.mean, scale=own.scale)
    both = CoreRows(
        torch.cat([own.features, features]),
        torch.cat([own.base, own.logit_scale * out.double()]),
        torch.cat([own.targets, one_hot(rest.labels, classes=architecture.classes, target=target)]),
        own.index,
        own.mean,
        own.scale,
        own.logit_scale,
    )
    rows = torch.arange(len(samples))
    labels = torch.cat([half.labels, rest.labels])
    return _best(both, rows[: len(half)], rows[len(half) :], labels, expected_rows, progress=progress, stop=stop)


def _best(rows: CoreRows, always: Tensor, folded: Tensor, labels: Tensor, expected_rows: int, *, progress: Progress, stop: Stop) -> float:
    """Cross-validate over `folded`, fitting to `always` as well; both are row numbers."""
    errors, squares = np.zeros(len(GRID), dtype=np.int64), np.zeros(len(GRID))
    for fold in range(FOLDS):
        held, kept = folded[fold::FOLDS], torch.ones(len(folded), dtype=torch.bool)
        kept[fold::FOLDS] = False
        fitted = torch.cat([always, folded[kept]])
        A, right = normal_equations(rows, fitted)
        for i, ridge in enumerate(GRID):
            check(stop)
            with one_blas_thread():
                weight = torch.from_numpy(minimise(A, right, feature_scale=FEATURE_SCALE, ridge=ridge))
                logits = rows.base[held] + linear_part(rows.features[held], weight, scale=FEATURE_SCALE)
            errors[i] += int((logits.argmax(dim=1) != labels[held]).sum())
            squares[i] += float((logits - rows.targets[held]).square().sum())
            progress(PHASE, 0.8 + 0.2 * (fold * len(GRID) + i + 1) / (FOLDS * len(GRID)))
    share = float(errors.min()) / len(folded)
    tied = errors <= errors.min() + np.sqrt(len(folded) * share * (1 - share))
    if expected_rows >= MANY * (len(always) + len(folded) * (FOLDS - 1) // FOLDS):
        return min(GRID[i] for i in np.flatnonzero(tied))
    return min((float(squares[i]), GRID[i]) for i in np.flatnonzero(tied))[1]
