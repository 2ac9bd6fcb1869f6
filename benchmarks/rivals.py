"""The four ways to be rid of samples that are compared, each as one call: forget, refit from integers, refit from raw data, fine-tune."""

from __future__ import annotations

import copy

from benchmarks.setting import parts_of
from models.data import Samples
from models.forget import exact
from models.forget.refit import refit
from models.linear.core import Core
from models.linear.solve import digest as weights_digest
from models.linear.statistics import Rows, Statistics
from models.linear.statistics import digest as statistics_digest
from models.train import Trained, Training, train

FINE_TUNING_RATE = 0.03
"""Of the one epoch that is timed; its seconds do not depend on it."""


def forget(statistics: Statistics, gone: Rows, core: Core) -> exact.Removal:
    """(a) Subtract the gone rows and solve."""
    return exact.forget(statistics, gone, core)


def refit_cached(core: Core, begun: Statistics, kept: Rows) -> exact.Removal:
    """(b) Sum the kept rows' stored integers again, and solve."""
    again = refit(core, begun, [kept])
    return exact.Removal(again.statistics, again.weights)


def refit_raw(core: Core, begun: Statistics, kept: Samples) -> exact.Removal:
    """(c) Read every kept sample through the core again, sum, and solve."""
    again = refit(core, begun, parts_of(kept.inputs, kept.labels, core))
    return exact.Removal(again.statistics, again.weights)


def fine_tune(core: Core, kept: Samples, *, threads: int = 1) -> Trained:
    """(d) Train the whole network on the kept samples for one epoch, from the core's weights on. Not a removal: only a cost."""
    assert core.net is not None
    return train(copy.deepcopy(core.net), kept, Training(epochs=1, rate=FINE_TUNING_RATE, threads=threads))


def digests(removal: exact.Removal) -> tuple[str, str]:
    """Return the sha256 of the sums and of the weights."""
    return statistics_digest(removal.statistics), weights_digest(removal.weights)
