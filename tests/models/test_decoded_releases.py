"""Versions that a release's decoder is told of: those served, one that never had the forgotten, and ones without as many others."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from linearised import GONE, Linearised
from test_solved import MU, apart, dense, how
from torch import Tensor

from workers import decoded_releases
from workers.decoded_releases import _versions
from workers.fitted import LINEARISED_REFITS


def removal(problem: Linearised) -> Any:
    """The mislabelled digits are gone."""
    gone = set(problem.user.ids[:GONE])

    def kept(without: set[str]) -> Any:
        stay = torch.tensor([name not in without for name in problem.user.ids]).nonzero()[:, 0]
        return SimpleNamespace(user=problem.user.select(stay), core=problem.core_samples)

    rows = SimpleNamespace(kept=kept)
    model = SimpleNamespace(weights=problem.minimiser(), core=problem.core)
    plan = {"spec": {"classes": list(range(10))}}
    return SimpleNamespace(plan=plan, model=model, rows=rows, gone=gone, user=gone, after=problem.minimiser(GONE), most=400)


@pytest.fixture
def versions(linearised: Linearised, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, Tensor]]:
    monkeypatch.setattr(decoded_releases, "samples", lambda rows, plan, classes: rows)
    monkeypatch.setattr(decoded_releases, "releasing", lambda plan, model, most: how(linearised, most=most))
    return lambda: _versions(removal(linearised), lambda done: None)


def test_the_retrained_one_never_had_the_forgotten_and_the_others_lack_as_many_more(
    linearised: Linearised, versions: Callable[[], dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    loud = versions()
    monkeypatch.setattr(decoded_releases.Solved, "served", lambda self, weights, noise: weights)
    quiet = versions()

    stay, generator = torch.arange(GONE, 300), np.random.default_rng(1)
    for found in (loud, quiet):
        assert torch.equal(found["before"], linearised.minimiser()) and torch.equal(found["after"], linearised.minimiser(GONE))
    assert apart(linearised, quiet["retrained"], dense(linearised, stay)) <= MU
    for number in range(1, LINEARISED_REFITS + 1):
        left = stay[~torch.isin(torch.arange(len(stay)), torch.from_numpy(generator.choice(len(stay), size=GONE, replace=False)))]
        assert len(left) == 300 - 2 * GONE
        assert apart(linearised, quiet[f"other {number}"], dense(linearised, left)) <= MU
    p = len(loud["before"])
    for name in ("retrained", "other 1", "other 2"):
        assert apart(linearised, loud[name], quiet[name]) == pytest.approx(p**0.5, rel=0.1)  # a release's noise, of its own
    assert apart(linearised, loud["retrained"] - quiet["retrained"], loud["other 1"] - quiet["other 1"]) > p**0.5
