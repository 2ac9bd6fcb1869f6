"""Linearised versions fitted again on some of their user samples: the minimisers of dense factorisations, served as the version is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from linearised import Linearised
from torch import Tensor

from models.audit.noisy_shadows import FellShort, Releasing
from workers.fitted import LINEARISED_REFITS, SERVED, WITHOUT, Members, _drawn, _others, members
from workers.halves import NOBODY, divisions, of_linearised
from workers.solved import Solved

MU = 0.2


def how(problem: Linearised, **more: Any) -> Releasing:
    return Releasing(problem.core, problem.curvature, isotropic=False, fitted_to=MU, **more)


def solved(problem: Linearised, *, noisy: bool = False, first: int = 0, **more: Any) -> Solved:
    """How it is fitted on the user digits from `first` on."""
    return Solved(problem.user.select(torch.arange(first, len(problem.user))), how(problem, **more), problem.core_rows, noisy)


def dense(problem: Linearised, places: Tensor) -> Tensor:
    """The minimiser over the user digits at these places."""
    rows = (places[:, None] * 10 + torch.arange(10)).flatten()
    J = problem.J[rows]
    H = problem.J_core.T @ problem.J_core + J.T @ J + problem.core.ridge * torch.eye(J.shape[1], dtype=torch.float64)
    return torch.linalg.solve(H, J.T @ problem.loss().missed[places].reshape(-1))


def apart(problem: Linearised, one: Tensor, other: Tensor) -> float:
    """In units of the noise, in the norm of its shape."""
    e, shape = one - other, problem.curvature
    return float(((shape.values * shape.along(e).square()).sum() + shape.ridge * (e @ e)).sqrt()) / problem.core.sigma


@pytest.mark.parametrize("start", [False, True])
def test_a_fit_on_some_rows_is_within_the_fit_s_error_of_their_minimiser_wherever_it_begins(linearised: Linearised, start: bool) -> None:
    places = torch.arange(0, 300, 3)

    found = solved(linearised).fit(places, linearised.minimiser() if start else None)

    assert apart(linearised, found, dense(linearised, places)) <= MU
    assert apart(linearised, dense(linearised, places), linearised.minimiser()) > 5 * MU  # the other rows count


def test_a_version_without_noise_is_rounded_and_one_with_it_lies_a_release_s_noise_away(linearised: Linearised) -> None:
    weights, noise = linearised.minimiser(), np.random.default_rng(0)

    bare, one, other = (solved(linearised, noisy=noisy).served(weights, noise) for noisy in (False, True, True))

    assert torch.equal(bare, weights.float().double())
    lengths = [apart(linearised, weights, each) for each in (one, other)]
    assert lengths == pytest.approx([len(weights) ** 0.5] * 2, rel=0.1) and not torch.equal(one, other)


@pytest.mark.parametrize("noisy", [False, True])
def test_the_halves_of_a_linearised_version_are_fitted_on_its_halves_with_its_noise(linearised: Linearised, noisy: bool) -> None:
    told: list[float] = []

    found = of_linearised(solved(linearised, noisy=noisy), told.append)

    (pair,) = found.pairs
    for weights, places in zip(pair, divisions(300)[0], strict=True):
        far = apart(linearised, weights, dense(linearised, places))
        assert far == pytest.approx(len(weights) ** 0.5, rel=0.1) if noisy else far <= MU + 0.01
    assert told == [0.5, 1.0]
    assert of_linearised(solved(linearised, first=299), told.append).why == NOBODY
    assert "There is no null" in of_linearised(solved(linearised, most=1), told.append).why


def test_the_group_is_missing_from_every_refit_and_as_many_others_from_all_but_one(linearised: Linearised) -> None:
    told: list[float] = []
    version: Any = SimpleNamespace(core=None, solved=solved(linearised), weights=linearised.minimiser())

    found = members(version, told.append)

    assert isinstance(found, Members) and len(found.rows) == 75 and told == sorted(told) and told[-1] == 1.0
    place_of = {name: place for place, name in enumerate(linearised.user.ids)}
    group = torch.tensor([place_of[name] for name in found.rows.ids])
    stay = torch.arange(300)[~torch.isin(torch.arange(300), group)]
    assert torch.equal(found.rows.labels, linearised.user.labels[group])
    assert torch.equal(found.versions[SERVED], version.weights)
    assert apart(linearised, found.versions[WITHOUT], dense(linearised, stay)) <= MU + 0.01
    others = [weights for name, weights in found.versions.items() if name.startswith("other")]
    assert len(others) == LINEARISED_REFITS and not torch.equal(*others)
    order, drawn = _drawn(300)
    for weights, gone in zip(others, _others(order, len(drawn), LINEARISED_REFITS), strict=True):
        left = stay[~torch.isin(stay, torch.from_numpy(gone))]
        assert len(left) == 150  # a group of others is missing besides
        assert apart(linearised, weights, dense(linearised, left)) <= MU + 0.01


def test_too_few_user_samples_or_a_solver_that_gives_up_are_said_in_words(linearised: Linearised) -> None:
    few: Any = SimpleNamespace(core=None, solved=solved(linearised, first=240), weights=linearised.minimiser())
    short: Any = SimpleNamespace(core=None, solved=solved(linearised, most=1), weights=torch.zeros_like(linearised.minimiser()))

    assert members(few, lambda done: None) == "The model holds 60 user samples: a quarter of them are fewer than 20."
    with pytest.raises(FellShort) as why:
        solved(linearised, most=1).fit(torch.arange(100))
    assert members(short, lambda done: None) == str(why.value)
