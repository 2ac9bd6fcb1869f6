"""The attack by closed forms and by a second attack; and its verdict on retraining and on removals that only pretend."""

from __future__ import annotations

from time import process_time

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from models.audit.membership import Attack, Shadows, _null_aucs, _without_each, attack, auc, phi, true_positive_rate, verdict
from models.audit.shadows import mislabelled
from models.forget.refit import weights_of
from models.linear.core import fit_core, logits_of_rows
from models.linear.solve import digest
from models.linear.statistics import Rows, add, subtract
from models.nets import Architecture
from models.train import default_training
from tests.audit.removals import FAKES, World, digit_world, fooling, retrained, untouched, world


def drawn(shift: float, rows: int, k: int, seed: int) -> Tensor:
    return torch.from_numpy(shift + np.random.default_rng(seed).standard_normal((rows, k)))


def test_scores_are_the_log_odds_of_the_label() -> None:
    logits = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 4, 2, 2])

    p = torch.softmax(logits, dim=-1).gather(-1, labels.expand(3, 4).unsqueeze(-1)).squeeze(-1)
    assert phi(logits, labels).numpy() == pytest.approx((p / (1 - p)).log().numpy(), abs=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.5])
def test_gaussian_scores_give_the_closed_form_of_the_best_test(shift: float) -> None:
    shadows = Shadows(drawn(shift, 400, 2000, 1), drawn(0.0, 400, 2000, 2))

    found = attack(drawn(shift, 1, 2000, 3)[0], shadows, seed=0, resamples=300)

    assert found.auc == pytest.approx(norm.cdf(shift / np.sqrt(2)), abs=0.02)
    assert found.rates[0].value == pytest.approx(norm.cdf(norm.ppf(0.01) + shift), abs=0.015)
    assert found.auc_ci95[0] - 0.01 < norm.cdf(shift / np.sqrt(2)) < found.auc_ci95[1] + 0.01
    assert found.distance == pytest.approx(1 + shift**2, rel=0.1)
    assert found.found == (shift > 0)
    for fpr, tpr in found.curve:
        assert fpr < 1e-3 or tpr == pytest.approx(norm.cdf(norm.ppf(fpr) + shift), abs=0.05)
    assert found.curve[-1] == (1.0, 1.0) and list(found.curve) == sorted(found.curve)


def test_shadows_with_the_same_bits_tell_nothing_whatever_the_scores() -> None:
    same = drawn(0.0, 64, 30, 1)

    found = attack(drawn(3.0, 1, 30, 2)[0], Shadows(same, same.clone()), seed=0, resamples=50)

    assert bool((found.ratios == 0).all())
    assert auc(np.zeros(3), np.zeros(7)) == 0.5
    assert auc(np.array([1.0, 2.0]), np.array([1.0, 0.0])) == (0.75 + 1.0) / 2
    assert true_positive_rate(np.zeros(5), np.zeros(100), 0.01) == 0.0  # equal scores cannot be told apart at a small rate


def test_each_retrained_model_is_scored_by_gaussians_that_never_saw_it() -> None:
    scores = drawn(1.0, 40, 3, 1).numpy()

    mean, sd = _without_each(scores)

    for j in (0, 17, 39):
        rest = np.delete(scores, j, axis=0)
        assert mean[j] == pytest.approx(rest.mean(axis=0)) and sd[j] == pytest.approx(rest.std(axis=0, ddof=1))


def test_a_model_that_is_one_more_retraining_is_refused_about_twice_in_a_hundred() -> None:
    refused = 0
    for seed in range(150):
        common = drawn(0.0, 130, 1, 3 * seed)  # the targets' scores move together, as they do in a real model
        unseen = 0.7 * drawn(0.0, 130, 20, 3 * seed + 1) + common
        refused += attack(unseen[0], Shadows(drawn(0.6, 128, 20, 3 * seed + 2), unseen[1:]), seed=0, resamples=1).found

    assert refused <= 8  # 3 expected; more than 8 has probability .004


def test_the_null_is_the_attack_on_each_retrained_model_against_all_others() -> None:
    scores = drawn(0.0, 40, 6, 1).round(decimals=1).numpy()  # with ties

    assert _null_aucs(scores) == pytest.approx([auc(row, np.delete(scores, j, axis=0).ravel()) for j, row in enumerate(scores)])


def test_no_rate_is_stated_from_fewer_than_a_thousand_scores() -> None:
    few = attack(drawn(1.0, 1, 30, 1)[0], Shadows(drawn(1.0, 33, 30, 2), drawn(0.0, 33, 30, 3)), seed=0, resamples=20)
    enough = attack(drawn(1.0, 1, 30, 1)[0], Shadows(drawn(1.0, 34, 30, 2), drawn(0.0, 34, 30, 3)), seed=0, resamples=20)

    assert few.pooled == 990 and all(rate.value is None for rate in few.rates)
    assert enough.pooled == 1020 and all(rate.value is not None for rate in enough.rates)


def test_a_rate_stands_beside_those_of_the_retrained_models_one_by_one() -> None:
    shadows = Shadows(drawn(1.0, 120, 2000, 1), drawn(0.0, 120, 2000, 2))

    found = attack(drawn(1.0, 1, 2000, 3)[0], shadows, seed=0, resamples=20)

    for rate, spread in zip(found.rates, (0.0052, 0.0017), strict=True):  # 2.33 standard deviations of so many Bernoulli draws
        assert rate.null is not None and rate.value is not None
        assert rate.null[0] == pytest.approx(rate.fpr, rel=1e-3)
        assert rate.null[1] == pytest.approx(rate.fpr + spread, abs=0.4 * spread)
        assert rate.value > rate.null[1]


@pytest.fixture(scope="module")
def digit() -> World:
    return digit_world(0)


def test_retraining_passes_and_every_pretence_is_refused_on_mislabelled_digits(digit: World) -> None:
    played = digit.play(0, groups=40)

    answers = {name: digit.judged(fake(digit), played) for name, fake in FAKES.items()}
    honest, passed = digit.judged(retrained(digit), played)

    assert passed.passed and not passed.void and passed.power.caught >= 25
    assert abs(honest.auc - 0.5) < 0.05
    assert {name: answer.passed for name, (_, answer) in answers.items()} == dict.fromkeys(FAKES, False)
    assert not any(answer.void for _, answer in answers.values())
    assert answers["not forgotten"][0].auc > 0.99 and answers["wrong sign"][0].distance > answers["not forgotten"][0].distance


def test_forgetting_to_the_bit_is_what_the_shadows_call_unseen(digit: World) -> None:
    forgotten = weights_of(digit.core, subtract(digit.before, digit.targets.rows))

    assert digest(forgotten) == digest(retrained(digit)) != digest(untouched(digit))


def test_a_version_tuned_to_fool_the_one_sided_attack_is_refused_by_its_distance(digit: World) -> None:
    played = digit.play(0, groups=40)

    found = attack(fooling(digit, played.targets), played.targets, seed=0, resamples=50)
    canaries = attack(played.planted, played.canaries, seed=0, resamples=50)

    assert found.auc <= found.auc_limit
    assert not verdict(found, canaries).passed and "squared deviations" in verdict(found, canaries).because


def test_an_audit_that_misses_its_canaries_has_no_verdict(digit: World) -> None:
    played = digit.play(0, groups=40)
    honest = attack(digit.targets.scores(digit.core, retrained(digit)), played.targets, seed=0, resamples=50)
    blind = attack(played.canaries.unseen[0], played.canaries, seed=0, resamples=50)  # canaries that the model was never trained on

    answer = verdict(honest, blind)

    assert answer.void and not answer.passed and answer.power.caught < 15


def test_canaries_are_the_rows_that_their_wrong_labels_would_give(digit: World) -> None:
    canaries = mislabelled(digit.core, digit.audit, digit.audit_labels, seed=1, count=20)

    order = np.random.default_rng(1).permutation(len(digit.audit_labels))[:20]
    true = digit.audit_labels[torch.from_numpy(order)]
    assert not bool((canaries.labels == true).any())
    weights = untouched(digit)
    rows = Rows(digit.audit.features[torch.from_numpy(order)], digit.audit.targets[torch.from_numpy(order)])
    same = logits_of_rows(digit.core, weights, canaries.rows, canaries.labels) - logits_of_rows(digit.core, weights, rows, true)
    assert float(same.abs().max()) <= digit.core.target_scale  # the same sample gives the same logits under either label


def relative(w: World, weights: Tensor, references: list[Tensor]) -> float:
    """AUC of RMIA: Pr over z that p(x | model) / p(x) exceeds p(z | model) / p(z), with p(.) the mean over reference models.

    Source: Zarifzadeh, Liu & Shokri, ICML 2024, equation 2 (gamma = 1). https://arxiv.org/abs/2312.03262
    """
    others = mislabelled(w.core, w.audit, w.audit_labels, seed=5, count=200)

    def ratios(rows: Rows, labels: Tensor) -> np.ndarray:
        def likely(u: Tensor) -> Tensor:
            return torch.softmax(logits_of_rows(w.core, u, rows, labels), dim=1).gather(1, labels[:, None]).squeeze(1)

        found: np.ndarray = (likely(weights) / torch.stack([likely(u) for u in references]).mean(dim=0)).numpy()
        return found

    population = ratios(others.rows, others.labels)
    scores = [(ratio[:, None] >= population[None, :]).mean(axis=1) for ratio in (ratios(w.targets.rows, w.targets.labels), population)]
    return auc(scores[0], scores[1])


def test_another_published_attack_ranks_the_versions_alike(digit: World) -> None:
    played = digit.play(0, groups=40)
    g = torch.Generator().manual_seed(1)
    references = []
    for _ in range(6):
        some = torch.randperm(len(digit.rows), generator=g)[:150]
        base = subtract(digit.kept, Rows(digit.rows.features[some], digit.rows.targets[some]))
        references += [weights_of(digit.core, base), weights_of(digit.core, add(base, digit.targets.rows))]
    versions = [untouched(digit), FAKES["fine-tuned"](digit), retrained(digit)]

    ours = [digit.judged(weights, played)[0].auc for weights in versions]
    theirs = [relative(digit, weights, references) for weights in versions]

    assert ours == sorted(ours, reverse=True) and theirs == sorted(theirs, reverse=True)
    assert theirs[0] > 0.9 and theirs[2] < 0.65


@pytest.mark.slow
def test_twenty_of_twenty_pretences_are_refused_and_retraining_passes_nineteen_times() -> None:
    refused, passed = dict.fromkeys(FAKES, 0), 0
    for seed in range(20):
        w = digit_world(seed, forget=100)
        played = w.play(seed, groups=128)
        for name, fake in FAKES.items():
            refused[name] += not w.judged(fake(w), played)[1].passed
        passed += w.judged(retrained(w), played)[1].passed

    assert refused == dict.fromkeys(FAKES, 20)
    assert passed >= 19


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fashion_images_are_attacked_with_256_shadows_within_a_minute_and_judged_rightly() -> None:
    data = pytest.importorskip("benchmarks.data")
    try:
        images = data.images("fashion_mnist", "train")
    except data.DataMissing as missing:
        pytest.skip(str(missing))
    core_samples, user, audit = data.draw(images, (2000, 10_000, 1000), seed=0)
    architecture = Architecture(name="convnet", input_shape=(1, 28, 28), classes=10)
    core = fit_core(architecture, core_samples, default_training(architecture, 2000), expected_rows=10_000)
    w = world(core_samples, core, user, audit, forget=100, seed=0)
    started = process_time()

    played = w.play(0, groups=128)
    honest, passed = w.judged(retrained(w), played)

    assert process_time() - started < 60
    assert passed.passed and passed.power.caught >= 25 and honest.pooled == 12_800
    for fake in FAKES.values():
        answer = w.judged(fake(w), played)[1]
        assert not answer.passed and not answer.void, answer.because


def test_shadows_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 32"):
        Shadows(drawn(0.0, 31, 3, 1), drawn(0.0, 40, 3, 1))
    with pytest.raises(ValueError, match="not finite"):
        Shadows(drawn(0.0, 40, 3, 1) / 0, drawn(0.0, 40, 3, 1))


def test_the_attack_is_the_same_for_the_same_seed(digit: World) -> None:
    def once() -> Attack:
        return attack(drawn(1.0, 1, 9, 1)[0], Shadows(drawn(1.0, 40, 9, 2), drawn(0.0, 40, 9, 3)), seed=7, resamples=50)

    first, second = once(), once()

    assert (first.auc, first.auc_ci95, first.rates) == (second.auc, second.auc_ci95, second.rates)
