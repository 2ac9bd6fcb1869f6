"""Fresh probes against closed forms: what they find, how often their limits hold, and the leaks that they must not miss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.audit import balance
from models.audit.balance import balanced, level_after, limits
from models.audit.permuted import permuted
from models.audit.planted import balanced_rows, own_head, planted, smallest_budget
from models.audit.probe import Held, Probed, probe
from models.audit.readers import Answer, Lesson, read
from models.progress import Stop, Stopped, never

SHIFT = 1.5


def information(shift: float) -> float:
    """I(x; v) in nats for v uniform on two values and x ~ N(v * shift, 1), by numeric integration."""
    x = np.linspace(-12, 12 + shift, 200_001)
    each = [np.exp(-((x - mean) ** 2) / 2) / np.sqrt(2 * np.pi) for mean in (0.0, shift)]
    mixture = (each[0] + each[1]) / 2
    return float(np.trapezoid(sum(e / 2 * np.log(np.maximum(e, 1e-300) / np.maximum(mixture, 1e-300)) for e in each), x))


def rows(n: int, seed: int, *, values: int = 2, classes: int = 2, d: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    v, y = torch.randint(0, values, (n,), generator=g), torch.randint(0, classes, (n,), generator=g)
    return torch.randn(n, d, generator=g), v, y


def shifted(n: int, seed: int, *, shift: float = SHIFT, d: int = 6) -> Held:
    x, v, y = rows(n, seed, d=d)
    x[:, 0] += shift * v
    return Held(x, v, y)


def found(train: Held, test: Held, *, values: int = 2, readers: tuple[str, ...] = ("linear", "mlp", "trees"), seed: int = 0) -> Probed:
    return probe(train, test, values=values, classes=2, seed=seed, resamples=400, conditional=False, readers=readers)


def test_gaussian_features_give_their_closed_form_information_and_never_more() -> None:
    truth = information(SHIFT)

    seen = found(shifted(3000, 1), shifted(3000, 2))

    assert 0.22 < truth < 0.28
    assert seen.lower <= truth <= seen.upper + 0.01
    assert all(0.85 * truth < p.v_information < truth + 0.03 for p in seen.probes)
    assert seen.entropy == pytest.approx(np.log(2)) and seen.n >= 2950 and seen.left_out == ()


def test_values_dealt_out_anew_within_labels_leave_readers_their_bias_and_every_cell_its_size() -> None:
    def biased(n: int, seed: int) -> Held:
        x, v, y = rows(n, seed)
        y = torch.where(torch.arange(n) % 5 == 0, 1 - v, v)  # four in five rows have the label of their value
        x[:, 0] += SHIFT * v
        x[:, 1] += 3.0 * y
        return Held(x, v, y)

    train, test = biased(800, 1), biased(800, 2)

    true, null = found(train, test), permuted(train, test, values=2, classes=2, seed=0, times=3)

    assert min(probe.v_information for probe in true.probes) > 0.15
    assert all(abs(probe.v_information) < 0.03 and abs(probe.conditional or 0.0) < 0.03 for dealt in null for probe in dealt.probes)
    assert [(dealt.n, dealt.rows, dealt.left_out) for dealt in null] == 3 * [(true.n, true.rows, true.left_out)]
    assert len({dealt.probes[1].balanced_accuracy for dealt in null}) == 3
    assert [dealt.probes for dealt in permuted(train, test, values=2, classes=2, seed=0, times=1)] == [null[0].probes]


def test_the_linear_reader_is_blind_to_an_exclusive_or_and_the_others_are_not() -> None:
    def exclusive(n: int, seed: int) -> Held:
        x, _, y = rows(n, seed)
        return Held(x, ((x[:, 0] > 0) ^ (x[:, 1] > 0)).long(), y)

    linear, mlp, trees = found(exclusive(1500, 1), exclusive(1500, 2)).probes

    assert linear.upper95 < 0.02
    assert mlp.lower95 > 0.3 and trees.lower95 > 0.3


def test_a_value_hidden_in_a_direction_a_hundred_times_fainter_than_the_rest_is_found() -> None:
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(3)))[0]

    def faint(n: int, seed: int) -> Held:
        held = shifted(n, seed)
        return Held((held.features * torch.tensor([0.01, 1, 1, 1, 1, 1])) @ turn, held.values, held.labels)

    linear, mlp, trees = found(faint(2000, 1), faint(2000, 2)).probes

    assert trees.v_information < 0.01
    assert min(linear.v_information, mlp.v_information) > 0.8 * information(SHIFT)


def test_an_overfit_reader_reports_the_leak_and_not_a_negative_number() -> None:
    seen = found(shifted(200, 1, d=150, shift=2.5), shifted(2000, 2, d=150, shift=2.5))

    assert min(p.v_information for p in seen.probes) > 0
    assert seen.leakage > 0.25


def test_a_reader_that_is_far_too_sure_of_itself_is_calibrated_before_it_is_judged() -> None:
    def boasting(lesson: Lesson, seed: int, stop: Stop) -> list[Answer]:
        return [lambda h: 40.0 * torch.stack([SHIFT / 2 - h[:, 0], h[:, 0] - SHIFT / 2], dim=1)]

    train, test = shifted(400, 1), shifted(2000, 2)
    half = torch.arange(400) < 200
    parts = [(train.features[rows], train.values[rows], torch.ones(200)) for rows in (half, ~half)]
    lesson = Lesson(*parts[0], *parts[1], 2, torch.full((2,), 0.5, dtype=torch.float64).log())

    answers = read(boasting, lesson, test.features, seed=0, stop=never)

    told = np.log(2) + float(answers.gather(1, test.values[:, None]).mean())
    assert told == pytest.approx(information(SHIFT), abs=0.03)  # as sure as it was, it would be worth -6 nats
    assert float(answers.exp().sum(dim=1).sub(1).abs().max()) < 1e-12


def test_of_an_independent_value_nothing_is_found_and_the_limits_hold_in_nineteen_of_twenty_seeds() -> None:
    missed = 0
    for seed in range(60):
        x, v, y = rows(400, seed)
        seen = found(Held(x[:200], v[:200], y[:200]), Held(x[200:], v[200:], y[200:]), readers=("linear",), seed=seed)
        missed += seen.lower > 0  # nothing can be known of an independent value

    assert missed <= 6  # 3 expected at 5 %; more than 6 has probability .03


def test_simultaneous_limits_cover_the_largest_of_three_means_as_often_as_they_say() -> None:
    truth = np.array([0.02, 0.0, -0.01])
    above = below = 0
    for seed in range(300):
        g = np.random.default_rng(seed)
        _, v, y = rows(120, seed)
        population = balanced(v, y, values=2, classes=2)

        bound = limits(truth + g.standard_normal((120, 3)) * [1.0, 0.3, 2.0], population, seed=seed, resamples=300)

        above += bool((bound.upper < truth).any())
        below += bool((bound.lower > truth).any())
    assert above <= 28 and below <= 28  # 15 expected each; standard deviation 3.8
    assert above + below >= 10


def test_a_reader_that_always_answers_with_the_prior_does_not_widen_the_limits_of_the_others() -> None:
    _, v, y = rows(1200, 3, values=3)
    population = balanced(v, y, values=3, classes=2)
    gains = np.random.default_rng(0).standard_normal((1200, 2)) * 0.3
    prior = np.full((1200, 1), -(2.0**-52))  # H(v) + ln(1/3) is 0 but for rounding, and so is the standard error

    alone = limits(gains, population, seed=0, resamples=300)
    beside = limits(np.concatenate([gains, prior], axis=1), population, seed=0, resamples=300)

    assert float(np.abs(beside.estimate[2])) < 1e-12 and float(np.abs(beside.upper[2])) < 1e-9
    assert beside.upper[:2] == pytest.approx(alone.upper, abs=1e-9) and beside.lower[:2] == pytest.approx(alone.lower, abs=1e-9)


def test_with_every_earlier_look_the_upper_limit_rises_and_the_looks_together_err_once_in_twenty() -> None:
    _, v, y = rows(400, 1)
    population = balanced(v, y, values=2, classes=2)
    gains = np.random.default_rng(1).standard_normal((400, 3))

    found = [limits(gains, population, seed=0, resamples=400, level=level_after(looks)) for looks in (0, 1, 2, 5, 20, 1000)]

    distance = [float((one.upper - one.estimate).mean()) for one in found]
    assert distance == sorted(distance) and len(set(distance)) == len(distance)
    assert distance[-1] < 3 * distance[0]
    assert sum(1 - level_after(looks) for looks in range(100_000)) == pytest.approx(0.05, abs=1e-6)
    assert all(np.array_equal(one.estimate, found[0].estimate) for one in found)


def test_limits_after_looks_are_too_low_as_rarely_as_they_say_within_the_resamples_and_beyond(monkeypatch: pytest.MonkeyPatch) -> None:
    level = level_after(3)  # .9975
    v, y = torch.arange(200) % 2, (torch.arange(200) // 2) % 2
    population = balanced(v, y, values=2, classes=2)
    units = np.sqrt(sum(1 / len(cell) for cell in population.cells)) / len(population.cells)
    exact = units * balance._normal(level, 3)
    gains = np.random.default_rng(2).standard_normal((200, 3))
    gains = (gains - gains.mean(axis=0)) / gains.std(axis=0, ddof=1)

    drawn = limits(gains, population, seed=0, resamples=1000, level=level).upper - population.weights @ gains
    monkeypatch.setattr(balance, "MOST_RESAMPLES", 1000)
    carried = limits(gains, population, seed=0, resamples=1000, level=level).upper - population.weights @ gains

    assert drawn == pytest.approx(exact, rel=0.08) and carried == pytest.approx(exact, rel=0.08)
    assert exact > 1.3 * units * balance._normal(0.95, 3)


def test_no_upper_limit_is_above_all_that_there_is_to_know() -> None:
    def told(n: int, seed: int) -> Held:
        x, v, y = rows(n, seed)
        x[:, 0] = 8.0 * v * (torch.arange(n) % 10 > 0)
        return Held(x, v, y)

    often = level_after(50)
    seen = probe(told(200, 1), told(40, 2), values=2, classes=2, seed=0, resamples=400, conditional=False, readers=("linear",), level=often)
    little = found(shifted(400, 1), shifted(400, 2), readers=("linear",))

    assert seen.leakage < seen.upper == seen.entropy and seen.cut
    assert seen.level == often and little.level == 0.95
    assert little.upper < little.entropy and not little.cut


def test_the_bootstrap_has_the_right_variance_in_cells_of_five_rows() -> None:
    v, y = torch.arange(20) % 2, (torch.arange(20) // 2) % 2
    population = balanced(v, y, values=2, classes=2)
    gains = np.random.default_rng(0).standard_normal((20, 1))
    exact = sum(gains[cell].var(ddof=1) / 5 for cell in population.cells) / 16

    low, high = limits(gains, population, seed=0, resamples=20_000).ci95[0]

    assert ((high - low) / (2 * 1.96)) ** 2 == pytest.approx(exact, rel=0.05)


def test_rare_cells_count_as_much_as_common_ones_and_cells_without_rows_are_named() -> None:
    v = torch.cat([torch.zeros(400), torch.ones(40), torch.zeros(60), torch.ones(3)]).long()
    y = torch.cat([torch.zeros(440), torch.ones(63)]).long()

    population = balanced(v, y, values=2, classes=2)

    assert population.left_out == ((1, 1, 3),)
    assert [float(population.weights[cell].sum()) for cell in population.cells] == pytest.approx([1 / 3] * 3)
    assert population.marginal.tolist() == pytest.approx([2 / 3, 1 / 3])
    assert population.n == balanced_rows([400, 40, 60, 3]) == int(9 / (1 / 400 + 1 / 40 + 1 / 60))


def test_values_that_come_with_one_label_only_are_audited_with_the_label_s_own_information_beside() -> None:
    x, v, y = rows(1200, 1, values=3)
    y = torch.where(v == 2, 0, y)  # value 2 never occurs with label 1
    held = Held(torch.cat([x, 3.0 * y[:, None]], dim=1), v, y)

    seen = found(held.select(torch.arange(600)), held.select(torch.arange(600, 1200)), values=3, readers=("linear",))

    assert (1, 2, 0) in seen.left_out
    assert seen.label_information > 0.1
    assert seen.leakage == pytest.approx(seen.label_information, abs=0.08)  # features that tell the label leak that much


def test_a_value_that_is_readable_only_beside_the_label_shows_in_the_conditional_figure() -> None:
    def beside(n: int, seed: int) -> Held:
        x, v, y = rows(n, seed)
        x[:, 0] += 3.0 * ((v + y) % 2)
        return Held(x, v, y)

    seen = probe(beside(1500, 1), beside(1500, 2), values=2, classes=2, seed=0, resamples=200, readers=("mlp",))

    assert seen.leakage < 0.02
    assert seen.probes[0].conditional is not None and seen.probes[0].conditional > 0.3


def test_the_same_seed_gives_the_same_figures_to_the_bit_and_stopping_stops() -> None:
    train, test = shifted(300, 1), shifted(300, 2)

    assert found(train, test) == found(train, test)
    with pytest.raises(Stopped):
        probe(train, test, values=2, classes=2, seed=0, stop=lambda: True)


def test_rows_that_cannot_be_audited_are_refused() -> None:
    held = shifted(100, 1)
    with pytest.raises(ValueError, match="negative"):
        Held(held.features, held.values - 1, held.labels)
    with pytest.raises(ValueError, match="not finite"):
        Held(held.features / 0, held.values, held.labels)
    with pytest.raises(ValueError, match="2 to 20"):
        found(held, held, values=21)
    with pytest.raises(ValueError, match="two values"):
        found(held, Held(held.features, held.values * 0, held.labels))


def null(n: int, values: int, sharpness: float, seed: int) -> float:
    """The upper limit of three readers of pure noise, whose answers are as sharp as asked for."""
    g = np.random.default_rng(seed)
    v, y = torch.arange(n) % values, (torch.arange(n) // values) % 2
    gains: list[NDArray[np.float64]] = []
    for _ in range(3):
        scores = sharpness * g.standard_normal((n, values))
        gains.append(scores[np.arange(n), v.numpy()] - np.log(np.exp(scores).mean(axis=1)))
    return float(limits(np.stack(gains, axis=1), balanced(v, y, values=values, classes=2), seed=seed, resamples=200).upper.max())


@pytest.mark.parametrize(("n", "values"), [(400, 2), (800, 20)])
def test_the_smallest_budget_is_what_noise_reaches_once_in_twenty_audits(n: int, values: int) -> None:
    claimed = smallest_budget(n, values)
    worst = 3.0 * np.sqrt(2 / n) / np.sqrt(1 - 1 / values)

    reached = np.quantile([null(n, values, worst, seed) for seed in range(120)], 0.95)

    assert 0.75 * claimed < reached < 1.15 * claimed
    assert np.quantile([null(n, values, 2.5 * worst, seed) for seed in range(40)], 0.95) < claimed
    assert claimed < smallest_budget(n, values, level=level_after(0)) < smallest_budget(n, values, level=level_after(1))


def test_planted_leaks_are_caught_and_a_budget_beyond_what_they_hold_voids_the_audit() -> None:
    clean = [Held(*rows(800, seed)) for seed in (1, 2)]
    before = shifted(800, 1), shifted(800, 2)

    strong = planted(*clean, values=2, classes=2, budget=0.05, seed=0, before=before, resamples=200)
    blind = planted(*clean, values=2, classes=2, budget=0.5, seed=0, before=before, resamples=200)

    assert [leak.name for leak in strong.leaks] == ["identity encoder", "corrupted own head", "version before"]
    assert strong.power.caught == strong.power.planted == 3 and not strong.void
    assert blind.void and blind.power.caught == 1  # .25 nat is no leak by this budget; the value itself still is


def test_a_removal_that_only_corrupts_its_own_head_is_refused_and_its_head_raises_the_alarm() -> None:
    train, test = shifted(1000, 1), shifted(1000, 2)
    fooled = torch.stack([test.features[:, 0] - SHIFT / 2, SHIFT / 2 - test.features[:, 0]], dim=1)  # the right answer, turned round

    head = own_head(fooled, test.values, test.labels, classes=2, seed=0)
    honest = own_head(-fooled, test.values, test.labels, classes=2, seed=0)
    seen = found(train, test, readers=("linear",))

    assert head.alarm and head.balanced_accuracy < head.chance and head.v_information < 0
    assert not honest.alarm and honest.v_information > 0.1
    assert seen.lower > 0.1


def test_features_that_never_change_and_values_that_were_never_learnt_are_audited_all_the_same() -> None:
    _, v, y = rows(600, 1, values=4)
    half = torch.arange(600) < 300
    constant = Held(torch.full((600, 5), 3.0), v, y)
    x = torch.nn.functional.one_hot(v, 4).float() + 0.1 * rows(600, 2, d=4)[0]
    unseen = Held(x, v, y).select(half & (v < 3))

    nothing = found(constant.select(half), constant.select(~half), values=4)
    partly = found(unseen, Held(x, v, y).select(~half), values=4)

    assert abs(nothing.leakage) < 0.01 and nothing.lower == 0.0 and nothing.upper < smallest_budget(nothing.n, 4)
    assert all(np.isfinite(p.v_information) for p in partly.probes)  # a value that no reader was shown costs ln(4 / .001) at most
