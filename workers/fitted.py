"""User samples that a version was fitted on, and user weights refitted without them: what the version tells of them beyond those."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.audit.noisy_shadows import FellShort
from models.audit.utility import SMALLEST
from models.data import Samples
from models.forget.refit import weights_of
from models.linear.statistics import Rows, Statistics, subtract
from workers.artifacts import rows_with_role, samples_of
from workers.attributed import tables
from workers.audited import Audited
from workers.beyond import MOST_JUDGED, REFITS
from workers.judging import SEED

SERVED, WITHOUT = "served", "without"
"""The version as it is; and the one that is refitted without the group of user samples."""

KNOWN = "The network itself was trained on user samples (data: all): a refit without some of them still knows them."

LINEARISED_REFITS = 2
"""Of a linearised version, each of whose refits takes a solver's passes."""

Places = NDArray[np.int64]


@dataclass(frozen=True)
class Members:
    """A group of user samples that a version was fitted on."""

    rows: Samples
    """Told of in numbers, never drawn."""
    versions: Mapping[str, Tensor]
    """User weights by name: as served, without the group, and without as many other user samples besides."""


def members(version: Audited, tell: Callable[[float], None]) -> Members | str:
    """Draw a random group of user samples, at most a quarter of them, and refit without it.

    Returns:
        the group; or why there is none: a network that learnt from them, too few, or a solver that gave up.
    """
    if version.core is None:
        return _of_linearised(version, tell)
    if version.saw_users:
        return KNOWN
    if not version.plan["blocks"]:
        return _too_few(0)
    held = version.sums
    order, group = _drawn(len(held.users.ids))
    if len(group) < SMALLEST:
        return _too_few(len(order))

    def less(sums: Statistics, places: Places) -> Statistics:
        rows, chosen = held.users.rows, torch.from_numpy(places)
        return subtract(sums, Rows(rows.features[chosen], rows.targets[chosen]))

    bare = less(held.statistics, group)
    versions = {SERVED: held.weights, WITHOUT: weights_of(held.core, bare)}
    for number, others in enumerate(_others(order, len(group), REFITS), start=1):
        versions[f"other {number}"] = weights_of(held.core, less(bare, others))
    names = {held.users.ids[place] for place in group}
    blocks = [block for _, block in tables(version.plan, version.shelf, names)]
    shape = tuple(version.plan["dataset"]["shape"])
    tell(1.0)
    return Members(samples_of(rows_with_role(blocks, "user"), shape, version.classes), versions)


def _of_linearised(version: Audited, tell: Callable[[float], None]) -> Members | str:
    one, noise = version.solved, np.random.default_rng(SEED + 2)  # another draw than that of refits on halves
    order, group = _drawn(len(one.users))
    if len(group) < SMALLEST:
        return _too_few(len(order))
    stay = torch.from_numpy(order[len(group) :])
    others = map(torch.from_numpy, _others(order, len(group), LINEARISED_REFITS))
    try:
        bare, besides = one.without(stay, others, version.weights, noise, tell)
    except FellShort as why:
        return str(why)
    return Members(one.users.select(torch.from_numpy(group)), {SERVED: version.weights, WITHOUT: bare} | besides)


def _drawn(users: int) -> tuple[Places, Places]:
    """User samples in a random order, and the group, the first of them."""
    order = np.random.default_rng(SEED).permutation(users)
    return order, order[: min(MOST_JUDGED, len(order) // 4)]


def _others(order: Places, many: int, times: int) -> list[Places]:
    generator = np.random.default_rng(SEED + 1)
    return [generator.choice(order[many:], size=many, replace=False) for _ in range(times)]


def _too_few(users: int) -> str:
    return f"The model holds {users} user samples: a quarter of them are fewer than {SMALLEST}."
