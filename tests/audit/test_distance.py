"""Distances to the retrained version, relearning, and the attacker who holds both versions; and what findings say of them."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from models.audit.differencing import differencing
from models.audit.distance import outputs, relearn, squared_loss
from models.audit.findings import (
    of_differencing,
    of_interval,
    of_membership,
    of_probes,
    rates_beside,
)
from models.audit.interval import trivial
from models.audit.membership import attack, verdict
from models.audit.planted import Leak, Planted
from models.audit.probe import Held, Probed, probe
from models.linear.statistics import Rows, subtract
from tests.audit.removals import FAKES, World, digit_world, fine_tuned, retrained, untouched
from tests.models.stand_in import digits
from workers.artifacts import NamedRows
from workers.compared import ERROR, KL, L1, STEPS, Sides, compared


@pytest.fixture(scope="module")
def digit() -> World:
    return digit_world(0)


def test_answers_are_compared_by_their_distributions() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(50, 4, generator=g, dtype=torch.float64), torch.randn(50, 4, generator=g, dtype=torch.float64)

    found, same = outputs(a, b), outputs(b + 3.0, b)

    p, q = torch.softmax(b, 1).numpy(), torch.softmax(a, 1).numpy()
    assert found is not None and same is not None
    assert found.l1 == pytest.approx(np.abs(p - q).sum(axis=1).mean()) and found.kl == pytest.approx((p * np.log(p / q)).sum(axis=1).mean())
    assert same.l1 == pytest.approx(0, abs=1e-12) and same.kl == pytest.approx(0, abs=1e-12)  # a constant changes no answer
    assert outputs(a[:19], b[:19]) is None


def test_what_was_kept_is_learnt_again_sooner_than_what_was_forgotten(digit: World) -> None:
    loss, rate = squared_loss(digit.core, digit.targets.rows)
    goal, _ = loss(untouched(digit))

    fair, faked, nothing = (relearn(removal(digit), loss, goal, rate=rate) for removal in (retrained, fine_tuned, untouched))

    assert nothing == 0
    assert fair is not None and faked is not None and 0 < faked < fair
    assert relearn(retrained(digit), loss, goal, rate=rate, most=fair) == fair
    assert relearn(retrained(digit), loss, goal, rate=rate, most=fair - 1) is None


def read(found: bytes) -> dict[tuple[str, str, str], dict[str, str]]:
    return {(row["rows"], row["version"], row["metric"]): row for row in csv.DictReader(found.decode().splitlines())}


def test_versions_stand_beside_a_retrained_one_and_what_retraining_varies_by(digit: World) -> None:
    gone = NamedRows(digit.targets.rows, digit.targets.labels, [f"g{i}" for i in range(len(digit.targets.labels))])
    labels = digits(400, 1100, "user").select(torch.randperm(700, generator=torch.Generator().manual_seed(0))[40:]).labels
    stay = NamedRows(digit.rows, labels, [f"k{i}" for i in range(len(labels))])
    test = NamedRows(digit.audit, digit.audit_labels, [f"t{i}" for i in range(len(digit.audit_labels))])
    base = subtract(digit.kept, digit.rows)
    versions = {"before": untouched(digit), "after": retrained(digit), "fake": fine_tuned(digit)}

    said, files = compared(Sides(digit.core, versions, gone, stay, test, base), "forgotten", lambda done: None)
    told = read(files["membership-distances.csv"])

    errors = {key[:2]: row for key, row in told.items() if key[2] == ERROR}
    assert set(errors) == {(rows, name) for rows in ("forgotten", "kept", "test") for name in (*versions, "retrained")}
    assert float(errors["forgotten", "before"]["value"]) < float(errors["forgotten", "after"]["value"])  # their labels are wrong
    assert errors["forgotten", "after"]["value"] == errors["forgotten", "retrained"]["value"]
    assert all(float(row["low"]) - 1e-9 <= float(row["value"]) <= float(row["high"]) + 1e-9 for row in errors.values())
    for metric in (L1, KL):
        for rows in ("forgotten", "kept", "test"):
            before, after, fake = (told[rows, name, metric] for name in versions)
            assert float(after["value"]) == 0.0 < float(after["null_mean"]) <= float(after["null_largest"])
            assert float(before["value"]) > float(fake["value"]) > float(fake["null_largest"]) or rows != "forgotten"
    steps = {name: told["forgotten", name, STEPS] for name in ("after", "fake", "retrained")}
    assert steps["after"]["value"] == steps["retrained"]["value"] and 0 < float(steps["fake"]["value"]) < float(steps["after"]["value"])
    assert float(steps["fake"]["value"]) < float(steps["after"]["null_mean"])
    assert {one.metric for one in said} == {f"{metric}: {rows} rows, {name}" for rows, name, metric in told}
    assert all(one.null is not None and one.passed is None for one in said)
    assert b"forgotten rows" in files["membership-errors.svg"]


def test_of_few_attacked_rows_no_error_and_no_distance_is_told(digit: World) -> None:
    some = Rows(digit.targets.rows.features[:19], digit.targets.rows.targets[:19])
    gone = NamedRows(some, digit.targets.labels[:19], [f"g{i}" for i in range(19)])
    stay = NamedRows(digit.rows, torch.zeros(len(digit.rows), dtype=torch.int64), [f"k{i}" for i in range(len(digit.rows))])
    base = subtract(digit.kept, digit.rows)

    said, _ = compared(Sides(digit.core, {"before": untouched(digit)}, gone, stay, None, base), "attacked", lambda done: None)

    assert not any("attacked rows" in one.metric for one in said)
    assert {one.metric for one in said if one.metric.startswith(ERROR)} == {"error: kept rows, before", "error: kept rows, retrained"}


def test_a_hundred_times_the_rate_of_relearning_is_the_largest_at_which_the_loss_never_rises(digit: World) -> None:
    loss, rate = squared_loss(digit.core, digit.targets.rows)
    at = retrained(digit)

    losses = []
    for _ in range(20):
        value, gradient = loss(at)
        losses.append(value)
        at = at - 100 * rate * gradient

    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]
    direction = torch.randn(at.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    numeric = (loss(at + 1e-6 * direction)[0] - loss(at - 1e-6 * direction)[0]) / 2e-6
    assert float((loss(at)[1] * direction).sum()) == pytest.approx(numeric, rel=1e-6)


def test_whoever_holds_both_versions_tells_the_forgotten_from_the_kept(digit: World) -> None:
    rows = torch.cat([digit.targets.rows.features, digit.rows.features])
    labels = torch.cat([digit.targets.labels, torch.zeros(len(digit.rows), dtype=torch.int64)])
    forgotten = torch.arange(len(labels)) < len(digit.targets.labels)
    features = digit.core.feature_scale * rows.double()
    before, after = (features @ w for w in (untouched(digit), retrained(digit)))
    noisy = after + 20.0 * torch.randn(after.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    found, hidden = differencing(before, after, labels, forgotten), differencing(before, noisy, labels, forgotten)
    none = differencing(before, before, labels, forgotten)

    assert found.auc > 0.95 and found.change_auc > 0.7
    assert 0.3 < hidden.auc < 0.7 < found.auc  # noise in the released weights is what withstands it
    assert none.auc == 0.5 and none.auc_ci95 == (0.5, 0.5)
    assert found.auc_ci95[0] < found.auc <= found.auc_ci95[1]
    odds = (after.gather(1, labels[:, None])[:, 0] - after.scatter(1, labels[:, None], -torch.inf).logsumexp(1)).numpy()
    assert found.after_auc == pytest.approx(roc_auc_score(forgotten.numpy(), -odds))  # who has the version after alone
    assert found.after_ci95[0] < found.after_auc <= found.after_ci95[1]
    assert all(rate.value is None for rate in found.rates)  # 660 kept rows
    with pytest.raises(ValueError, match="rows of both"):
        differencing(before, after, labels, torch.zeros_like(forgotten))


def test_the_interval_of_an_area_covers_it_and_is_that_of_scikit_learn_s_area() -> None:
    covered = 0
    for seed in range(200):
        g = np.random.default_rng(seed)
        forgotten = torch.arange(140) < 40
        logits = torch.from_numpy(g.standard_normal((140, 1)) + 1.0 * forgotten.numpy()[:, None])
        before = torch.cat([logits, torch.zeros(140, 1)], dim=1)
        found = differencing(before, torch.zeros(140, 2), torch.zeros(140, dtype=torch.int64), forgotten)
        assert found.auc == pytest.approx(roc_auc_score(forgotten.numpy(), logits.numpy().ravel()))
        covered += found.auc_ci95[0] <= 0.7602 <= found.auc_ci95[1]  # Phi(1 / sqrt(2))

    assert 180 <= covered <= 199


def probed(shift: float) -> Probed:
    g = torch.Generator().manual_seed(0)
    v, y = torch.randint(0, 2, (800,), generator=g), torch.randint(0, 2, (800,), generator=g)
    x = torch.randn(800, 3, generator=g) + shift * v[:, None]
    half = torch.arange(800) < 400
    rows = Held(x, v, y)
    return probe(rows.select(half), rows.select(~half), values=2, classes=2, seed=0, resamples=100, readers=("linear",))


def test_a_leak_fails_a_clean_bottleneck_passes_and_an_audit_without_power_passes_nothing() -> None:
    strong, blind = Planted((Leak("a", 0.5, True),)), Planted((Leak("a", 0.5, True), Leak("b", 0.0, False)))

    leaky, clean = probed(1.0), probed(0.0)

    assert of_probes(leaky, strong, (), budget=0.05, access="here")[0].passed is False
    passes = of_probes(clean, strong, (clean,), budget=0.05, access="here", before=leaky)[0]
    assert passes.passed is True and passes.value == clean.upper and passes.reference == leaky.upper and passes.ci95 is not None
    assert passes.null == (clean.upper, clean.upper)
    void = of_probes(clean, blind, (), budget=0.05, access="here")[0]
    assert void.void and void.passed is False
    assert {m.passed for m in of_probes(clean, strong, (clean,), budget=0.05, access="here")[1:]} == {None}


def test_the_readers_that_a_claim_is_about_decide_and_the_others_are_shown() -> None:
    (linear,) = probed(0.0).probes
    both = replace(probed(0.0), probes=(replace(linear, upper95=0.01), replace(linear, name="mlp", v_information=0.3, upper95=0.4)))
    strong = Planted((Leak("a", 0.5, True),))

    some, every = (of_probes(both, strong, (both,), budget=0.05, access="here", claim=claim, before=both) for claim in ("linear", "any"))

    assert [(one[0].metric, one[0].value, one[0].passed, one[0].reference, one[0].null) for one in (some, every)] == [
        ("linear_v_information_upper95_nats", 0.01, True, 0.01, (0.01, 0.01)),
        ("v_information_upper95_nats", 0.4, False, 0.4, (0.4, 0.4)),
    ]
    shown = {one.metric: one for one in some}
    assert shown["mlp.v_information_nats"].value == 0.3 and shown["mlp.v_information_nats"].null == (0.3, 0.3)
    assert set(shown) - {one.metric for one in every} == {"linear_v_information_upper95_nats"}


def test_each_audit_s_answer_becomes_measured_values_with_their_null(digit: World) -> None:
    played = digit.play(0, groups=32)
    canaries = attack(played.planted, played.canaries, seed=0, resamples=20)

    for name, removal in {"retrained": retrained, **FAKES}.items():
        found = attack(digit.targets.scores(digit.core, removal(digit)), played.targets, seed=0, resamples=20)
        answer = verdict(found, canaries)
        told, apart, *rates = of_membership(found, answer)
        assert (told.passed and apart.passed) == answer.passed == (name == "retrained")
        assert told.null == (found.auc_null, found.auc_limit) and told.power == answer.power
        assert len(rates) == 2

    honest = attack(digit.targets.scores(digit.core, retrained(digit)), played.targets, seed=0, resamples=20)
    blind = verdict(honest, attack(played.canaries.unseen[0], played.canaries, seed=0, resamples=20))
    assert [m.passed for m in of_membership(honest, blind)[:2]] == [False, False]


def test_reported_numbers_decide_nothing() -> None:
    labels = torch.arange(200) % 2
    measured = [
        *of_interval(trivial(probed(0.5)), 400, "here"),
        *of_differencing(differencing(torch.eye(2)[labels], torch.zeros(200, 2), labels, labels == 1)),
    ]

    assert len(measured) >= 4
    assert all(m.passed is None and m.threshold is None for m in measured)


def test_true_positive_rates_stand_beside_those_of_removals_of_others() -> None:
    generator = torch.Generator().manual_seed(0)
    before, labels = torch.randn(1300, 3, generator=generator, dtype=torch.float64), torch.arange(1300) % 3
    after = [before + 0.1 * torch.randn(1300, 3, generator=generator, dtype=torch.float64) for _ in range(3)]
    after[0][torch.arange(100), labels[:100]] -= 1.0  # who goes loses the label's odds
    gone = torch.arange(1300) < 100

    found, *null = (differencing(before, one, labels, gone) for one in after)
    beside = rates_beside(found, null)

    assert [rate.null for rate in beside] == [
        (sum(values) / 2, max(values)) for values in ([one.rates[place].value for one in null] for place in range(2))
    ]
    assert all(rate.value == own.value == 1.0 for rate, own in zip(beside, found.rates, strict=True)) and beside[0].null[1] < 0.1
    assert [rate.null for rate in rates_beside(found, [])] == [None, None]
    told = {one.metric: one for one in of_differencing(found, null)}
    assert told["TPR at FPR 0.01"].null == beside[0].null and told["TPR at FPR 0.01"].n == 100
