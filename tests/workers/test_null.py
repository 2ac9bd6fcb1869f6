"""What stands beside a version's scores: other versions' answers, and for a network that learnt from user samples whole retrainings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from models.data import Samples
from models.forget.refit import refit
from models.linear.statistics import gram, merge
from tests.workers.test_halves import BASE, CORE, SAMPLES, USERS, part
from workers import fitted
from workers.artifacts import NamedRows
from workers.audited import Sums
from workers.beyond import REFITS
from workers.fitted import KNOWN, SERVED, WITHOUT, Members, members
from workers.null import Null


class Reading:
    """Reads rows, and counts how often."""

    def __init__(self, by: float) -> None:
        self.by, self.times = by, 0

    def __call__(self, rows: Samples) -> Callable[[Tensor], Tensor]:
        self.times += 1
        return lambda weights: self.by * rows.inputs @ weights


def test_rows_are_read_once_by_all_versions_that_read_them_alike() -> None:
    one, other = Reading(1.0), Reading(2.0)
    weights = [torch.randn(5, 3, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]

    found = Null(((one, weights[0]), (other, weights[1]), (one, weights[2])), "refits").answers(SAMPLES)

    expected = [SAMPLES.inputs @ weights[0], 2 * SAMPLES.inputs @ weights[1], SAMPLES.inputs @ weights[2]]
    assert all(torch.equal(each, there) for each, there in zip(found, expected, strict=True))
    assert (one.times, other.times) == (1, 1)
    assert Null((), "refits", "None.").answers(SAMPLES) == []


def test_what_stands_beside_is_said_with_how_many_there_are_and_why_they_are_fewer() -> None:
    some = ((Reading(1.0), torch.zeros(5, 3)),) * 3

    assert Null(some, "refits").note == "The null is over 3 refits: mean and largest."
    assert Null(some, "refits", "One diverged.").about(2) == "The null is over 2 refits: mean and largest. One diverged."
    assert Null((), "refits", "Nobody is there.").note == "Nobody is there."


def version(count: int, *, saw_users: bool = False) -> Any:
    """A model of fixed features that was fitted on so many of the samples."""
    places = torch.arange(count)
    users = NamedRows(part(places), SAMPLES.labels[:count], list(SAMPLES.ids[:count]))
    whole = merge(BASE, gram(users.rows))
    sums = Sums(CORE, refit(CORE, BASE, [users.rows]).weights, whole, users, None, BASE)
    plan = {"blocks": [0], "dataset": {"shape": [5]}}
    return SimpleNamespace(core=CORE, plan=plan, shelf=None, classes=[0, 1, 2], saw_users=saw_users, sums=sums)


def test_of_fixed_features_the_refits_lack_the_group_and_all_but_one_as_many_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def only(plan: Any, shelf: Any, names: set[str]) -> list[tuple[int, set[str]]]:
        return [(0, names)]

    def chosen(blocks: list[set[str]], role: str) -> list[str]:
        return sorted(blocks[0]) if role == "user" else []

    monkeypatch.setattr(fitted, "tables", only)
    monkeypatch.setattr(fitted, "rows_with_role", chosen)
    def named(names: list[str], shape: Any, classes: Any) -> Samples:
        return replace(SAMPLES.select(torch.arange(len(names))), ids=tuple(names))

    monkeypatch.setattr(fitted, "samples_of", named)
    monkeypatch.setattr(fitted, "SMALLEST", 15)

    found = members(version(60), lambda done: None)

    assert isinstance(found, Members) and len(found.rows) == 15
    place_of = {name: place for place, name in enumerate(SAMPLES.ids)}
    stay = torch.tensor([place for name, place in place_of.items() if name not in set(found.rows.ids)])
    assert torch.equal(found.versions[SERVED], refit(CORE, BASE, [USERS]).weights)
    assert torch.equal(found.versions[WITHOUT], refit(CORE, BASE, [part(stay)]).weights)
    others = [weights for name, weights in found.versions.items() if name.startswith("other")]
    order, group = fitted._drawn(60)
    for weights, gone in zip(others, fitted._others(order, len(group), REFITS), strict=True):
        left = stay[~torch.isin(stay, torch.from_numpy(gone))]
        assert len(left) == 30 and torch.equal(weights, refit(CORE, BASE, [part(left)]).weights)


def test_of_too_few_or_of_a_network_that_learnt_from_them_nothing_is_told() -> None:
    assert members(version(60), lambda done: None) == "The model holds 60 user samples: a quarter of them are fewer than 20."
    assert members(version(60, saw_users=True), lambda done: None) == KNOWN
