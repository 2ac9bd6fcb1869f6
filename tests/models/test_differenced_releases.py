"""Whoever holds two noisy releases: the removals that stand beside one are removals, and the quiet one is what dense refits give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from linearised import Linearised
from released import Removed, removed

from models.audit.differencing import differencing
from models.progress import silent
from workers.differenced_releases import GROUPS, Others
from workers.judging import SEED
from workers.released import Attacked


@pytest.fixture(scope="module")
def removal(linearised: Linearised) -> Removed:
    return removed(linearised, 0)


def others_of(removal: Removed) -> Others:
    places = torch.arange(len(removal.world.kept))
    labels = torch.cat([removal.targets.labels, removal.world.kept.labels])
    return Others(Attacked(removal.how, removal.world, removal.targets, {}, places), removal.before, places, labels)


def test_each_removal_of_the_null_takes_as_many_others_whose_answers_then_change_most(removal: Removed) -> None:
    others, aimed = others_of(removal), len(removal.targets)
    before, seen = others.answers(removal.before), []

    generator = np.random.default_rng(0)
    for gone, after in others.removals(lambda loss: removal.how.forget(loss, removal.before, generator.bytes)):
        went = torch.cat([torch.zeros(aimed, dtype=torch.bool), torch.isin(others.places, gone)])
        seen.append((int(went.sum()), differencing(before, after, others.labels, went).auc))
    null = others.null(generator.bytes, silent)

    assert [count for count, _ in seen] == [aimed] * GROUPS
    assert min(auc for _, auc in seen) > 0.65  # who went instead shows
    assert max(one.auc for one in null) < 0.65 and {one.forgotten for one in null} == {aimed}
    assert {one.kept for one in null} == {len(removal.world.kept) - aimed}


def test_without_noise_the_attack_is_that_on_the_minimisers_of_a_dense_factorisation(removal: Removed) -> None:
    others = others_of(removal)
    gone = torch.arange(len(others.labels)) < len(removal.targets)

    quiet, _ = others.quiet(silent)
    truth = differencing(others.answers(removal.before), others.answers(removal.retrained), others.labels, gone)
    noised = removal.how.noised(removal.retrained, np.random.default_rng(0).bytes)
    loud = differencing(others.answers(removal.before), others.answers(noised), others.labels, gone)

    assert quiet.auc == pytest.approx(truth.auc, abs=0.005) and quiet.after_auc == pytest.approx(truth.after_auc, abs=0.005)
    assert loud.auc <= truth.auc


def test_the_null_without_noise_is_of_the_same_others_forgotten_without_noise(removal: Removed) -> None:
    others, aimed, done = others_of(removal), len(removal.targets), []
    one, stay = others.one, removal.world.kept
    everybody = one.world.sums().plus(one.aimed)
    held = one.how.fit(everybody.without(stay.pick(torch.arange(0))), removal.before)

    _, null = others.quiet(lambda part, share: done.append(share))

    generator = np.random.default_rng(SEED + 1)
    for told in null:
        gone = torch.from_numpy(generator.choice(len(stay), size=aimed, replace=False))
        left = ~torch.isin(others.places, gone)
        after = one.how.fit(everybody.without(stay.pick(gone)), held)
        rows = torch.cat([torch.arange(aimed), aimed + others.places[left]])
        was, now = others.answers(held)[rows], others.answers(after)[rows]
        assert told.auc == differencing(was, now, others.labels[rows], torch.arange(len(rows)) < aimed).auc
    assert len(null) == GROUPS and max(one.auc for one in null) < 0.65
    assert done == sorted(done) and done[-1] == 1.0 and done[0] > 0.5
