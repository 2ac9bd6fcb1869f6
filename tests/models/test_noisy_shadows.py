"""Shadows of a linearised network against the truth: its own release passes, and what only pretends to forget is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from linearised import Linearised
from released import FAKES, Removed, laxer, released, removed, untouched

from models.audit.membership import attack, verdict
from models.audit.noisy_shadows import FellShort, Played, mislabelled, scores
from models.linear.summed import fits
from models.linear.whole import quadratic


@pytest.fixture(scope="module")
def removal(linearised: Linearised) -> Removed:
    return removed(linearised, 0)


@pytest.fixture(scope="module")
def played(removal: Removed) -> Played:
    return removal.play(0)


def test_sums_less_some_rows_give_the_gradient_and_curvature_of_the_rows_that_stay(linearised: Linearised, removal: Removed) -> None:
    kept, out = removal.world.kept, torch.arange(0, 200, 3)
    stays = torch.ones(len(kept), dtype=torch.bool)
    stays[out] = False
    w = torch.randn(linearised.core.tangent.p, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    found = removal.world.sums().plus(removal.targets).without(kept.pick(out))

    rows, labels = (
        torch.cat([ours[stays], theirs]) for ours, theirs in ((kept.rows, removal.targets.rows), (kept.labels, removal.targets.labels))
    )
    truth = quadratic(linearised.core, rows, labels, linearised.core_rows)
    truth = replace(truth, quick=truth.tangent)
    assert found.counts == truth.counts
    for ours, theirs in ((found.gradient(w), truth.gradient(w)), (found.curved(w), truth.curved(w))):
        assert float((ours - theirs).norm()) <= 1e-9 * float(theirs.norm())


def test_a_release_passes_and_every_pretence_is_refused(removal: Removed, played: Played) -> None:
    answers = {name: removal.judged(fake(removal, 0), played) for name, fake in FAKES.items()}

    own, held, passed = removal.judged(released(removal, 0), played)

    assert passed.passed and not passed.void and passed.power.caught >= 20, passed.because
    assert abs(held.auc - 0.5) < 0.1 and abs(own.auc - 0.5) < 0.15
    assert {name: (answer.passed, answer.void) for name, (_, _, answer) in answers.items()} == dict.fromkeys(FAKES, (False, False))
    assert answers["not forgotten"][1].auc > 0.9
    assert answers["wrong sign"][0].distance > answers["not forgotten"][0].distance > answers["fine-tuned"][0].distance


def test_shadows_that_forgot_are_as_retrained_ones_and_those_that_did_not_are_far(played: Played) -> None:
    assert played.forgotten is not None
    mean, sd = played.forgotten.unseen.mean(dim=0), played.forgotten.unseen.std(dim=0)

    forgot, held = (((each.mean(dim=0) - mean) / sd).mean() for each in (played.forgotten.seen, played.held.seen))

    assert abs(float(forgot)) < 0.2 and float(held) > 2


def test_shadows_that_forgot_alone_would_let_an_unforgotten_version_pass(removal: Removed, played: Played) -> None:
    own, held, answer = removal.judged(untouched(removal, 0), played)

    assert own.auc <= own.auc_limit
    assert held.auc > held.auc_limit and not answer.passed


def test_canaries_that_nobody_was_trained_on_make_the_audit_void(removal: Removed, played: Played) -> None:
    own, held, _ = removal.judged(released(removal, 0), played)

    answer = verdict(own, attack(played.canaries.unseen[0], played.canaries, seed=0, resamples=20), held=held)

    assert answer.void and not answer.passed


def test_limits_over_few_retrained_models_are_said_to_be_exceeded_once_in_so_few(removal: Removed, played: Played) -> None:
    _, _, answer = removal.judged(untouched(removal, 0), played)

    assert answer.because.endswith("once in 33")


def test_canaries_have_the_same_logits_and_another_label(linearised: Linearised, removal: Removed) -> None:
    core, kept = linearised.core, removal.world.kept

    canaries = mislabelled(core, kept, seed=1, count=20)

    places = [int((kept.rows == row).flatten(1).all(dim=1).nonzero()[0]) for row in canaries.rows]
    originals = kept.pick(torch.tensor(places))
    assert not bool((canaries.labels == originals.labels).any())
    assert float((canaries.logits(core, removal.before) - originals.logits(core, removal.before)).abs().max()) < 1e-9


def test_a_shadow_whose_solver_gives_up_is_no_shadow(removal: Removed) -> None:
    with pytest.raises(FellShort, match="stopped after"):
        laxer(removal, most=3).play(0)


@pytest.mark.slow
def test_the_paper_s_solver_makes_its_own_shadows_forget(linearised: Linearised, removal: Removed) -> None:
    ridge = 1e4  # plain descent gets nowhere at a condition number of a million
    core, curvature = (replace(each, ridge=ridge) for each in (replace(linearised.core, sigma=1.2), linearised.curvature))
    more = (ridge - linearised.core.ridge) * torch.eye(core.tangent.p, dtype=torch.float64)
    world = replace(removal.world, core_sum=removal.world.core_sum + more)
    by_sgd = replace(removal, how=replace(removal.how, core=core, curvature=curvature, method="sgd", most=20), world=world)

    played = by_sgd.play(0)

    assert played.forgotten is not None
    mean, sd = played.forgotten.unseen.mean(dim=0), played.forgotten.unseen.std(dim=0)
    forgot, held = (((each.mean(dim=0) - mean) / sd).mean() for each in (played.forgotten.seen, played.held.seen))
    assert abs(float(forgot)) < 0.3 * float(held)


def test_shadows_of_a_version_that_forgot_nothing_forget_nothing(removal: Removed) -> None:
    held = replace(removal, how=replace(removal.how, method=None)).play(0)

    found = attack(scores(removal.how.core, removal.targets, removal.before), held.held, seed=0, resamples=20)

    assert held.forgotten is None and found.auc > found.auc_limit


def test_the_same_seed_plays_the_same_shadows(removal: Removed, played: Played) -> None:
    again = removal.play(0)

    assert torch.equal(again.held.seen, played.held.seen) and torch.equal(again.planted, played.planted)


def test_a_network_too_large_to_hold_is_told_before_it_is_tried(linearised: Linearised) -> None:
    assert fits(linearised.core, 1000) and not fits(linearised.core, 10_000)


@pytest.mark.slow
def test_twenty_of_twenty_pretences_are_refused_and_releases_pass_nineteen_times(linearised: Linearised) -> None:
    refused, passed = dict.fromkeys(FAKES, 0), 0
    for seed in range(20):
        w = removed(linearised, seed)
        played = w.play(seed, unseen=100)
        for name, fake in FAKES.items():
            refused[name] += not w.judged(fake(w, seed), played)[2].passed
        passed += w.judged(released(w, seed), played)[2].passed

    assert refused == dict.fromkeys(FAKES, 20)
    assert passed >= 19
