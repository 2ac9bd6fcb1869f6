"""Every benchmark runs from end to end on digits, at toy size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from benchmarks import (
    __main__,
    accuracy,
    alone,
    audits,
    caltech,
    cifar,
    data,
    few,
    forget,
    latency,
    linearised,
    outcome,
    photo_tuning,
    photographs,
    removals,
    rivals,
    setting,
    storage,
    tuning,
    wide,
)
from models.data import Samples
from models.nets import Architecture, build
from models.train import Training, train
from tests.servers import no_servers


def digits(start: int, end: int) -> Samples:
    """Rows of scikit-learn's digits as uint8 images `[n, 1, 8, 8]`."""
    raw = load_digits()
    images = torch.from_numpy((raw.images[start:end] * 15.9375).astype(np.uint8))[:, None]
    return Samples(images, torch.from_numpy(raw.target[start:end].astype(np.int64)), tuple(f"digit-{i}" for i in range(start, end)))


TOY = setting.Form("toy", hidden=(4, 4, 6, 6), taps=("stage3", "stage4"), core_epochs=1)


@pytest.mark.slow
def test_forget_measures_every_cell_and_finds_every_hash_equal() -> None:
    scale = forget.Scale(core_rows=200, user_rows=(300, 600), gone=(1, 10), memory_at=(), repeats=1, forms=(TOY,))

    found = forget.measured(digits(0, 900), digits(900, 1000), scale)

    toy = found.numbers["forms"]["toy"]
    assert [(c["n"], c["k"], c["equal"]) for c in toy["cells"]] == [(300, 1, True), (300, 10, True), (600, 1, True), (600, 10, True)]
    assert found.goals[-1].met
    assert "toy: d = 49 features" in outcome.show(found)


@pytest.mark.slow
def test_audits_are_billed_by_what_they_are_spent_on() -> None:
    scale = audits.Scale(core=200, user=300, audit=800, forgotten=20, groups=32, steps=5, judged=20)

    found = audits.measured(digits(0, 1300), digits(1300, 1400), scale)

    billed = {row["audit"] for row in found.numbers["bill"]}
    assert billed == {"membership", "utility", "distance", "differencing", "probes", "interval", "decoder"}
    assert found.goals[0].met
    assert "64 refits" in outcome.show(found)


@pytest.mark.parametrize("method", list(alone.METHODS))
def test_every_method_runs_from_files_alone(tmp_path: Path, method: str) -> None:
    small = setting.prepare(TOY, digits(0, 900), digits(900, 950), core_rows=200, user_rows=300, training=Training(epochs=1))
    setting.write_case(tmp_path, setting.case(small, setting.statistics_at(small, (300,))[300], n=300, k=7))

    found = alone.main(method, tmp_path)

    assert found.seconds > 0 and found.peak > 0


def test_the_stored_step_forgets_the_rows_that_the_case_forgets(tmp_path: Path) -> None:
    small = setting.prepare(TOY, digits(0, 900), digits(900, 950), core_rows=200, user_rows=300, training=Training(epochs=1))
    sums = setting.statistics_at(small, (300,))[300]
    case = setting.case(small, sums, n=300, k=7)
    stored = storage.store(small, sums, tmp_path, n=300)

    step = storage.run_step(stored, storage.gone_rows(300, 7), turn=0)

    chosen = torch.tensor(storage.gone_rows(300, 7))
    assert torch.equal(case.gone.features, small.rows.features[chosen])
    assert step.blocks == 2
    assert {"loading", "forgetting", "writing", "erasing rows"} <= set(step.phases)
    assert not list(stored.vault.ids("turn0"))


def test_removals_are_checked_against_refitting() -> None:
    pair = digits(0, 1797)
    pair = pair.select((pair.labels == 3) | (pair.labels == 8))
    pair = Samples(pair.inputs, (pair.labels == 8).long(), pair.ids)

    found = removals.measured(pair, pair, removals=5, checked=3)

    assert len(found.numbers["removing"]) == len(found.numbers["lapack"]) == 5
    assert found.numbers["used"] < found.numbers["d"] == 65
    assert found.numbers["accuracy_after"] > 0.9


def test_a_removal_that_leaves_the_row_in_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = digits(0, 60)
    pair = Samples(pair.inputs, pair.labels % 2, pair.ids)
    forgetting = rivals.forget
    monkeypatch.setattr(rivals, "forget", lambda sums, gone, core: forgetting(sums, type(gone)(gone.features * 0, gone.targets), core))

    with pytest.raises(forget.HashesDiffer):
        removals.measured(pair, pair, removals=3, checked=3)


def test_accuracy_scores_all_six_and_keeps_earlier_seeds() -> None:
    budget = tuning.Budget(search=1, tune=1, scratch=1, threads=1)

    one = tuning.scores(digits(0, 300), digits(300, 600), digits(900, 1000), budget, seed=0, finer=5)
    found = accuracy.outcome_of({"toy": {"0": one | {"budget": {"search": 1, "tune": 1, "scratch": 1}}}})

    assert set(one["accuracy"]) == set(accuracy.METHODS)
    assert all(0 <= value <= 1 for value in one["accuracy"].values())
    assert one["rate"] in tuning.RATES
    assert "fine-tuning the whole network" in outcome.show(found)


def seen_digits() -> dict[str, torch.Tensor]:
    """Weights of a MobileNetV2 whose signal does not die out in 53 layers."""
    net = build(Architecture(name="mobilenet_v2", input_shape=(1, 8, 8), classes=7), 0)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the plain mean of what it sees
    net.input.fit(digits(0, 300).inputs)
    net.train()(digits(0, 300).inputs)
    return net.eval().state_dict()


@pytest.mark.slow
def test_a_pretrained_core_stands_beside_taps_and_fine_tuning_of_all_its_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = caltech.Plan(core_each=3, user_each=5, rank=8, ridge=1.0)
    monkeypatch.setattr(photographs, "TUNE", 2)
    core, user = caltech.divide(digits(0, 200), plan, seed=1)
    other, _ = caltech.divide(digits(0, 200), plan, seed=2)

    one = photographs.scores(core, user, digits(900, 940), seen_digits(), plan, seed=1, rate=0.001)
    found = photographs.outcome_of({"1": one})

    assert core.ids != other.ids
    assert set(one["accuracy"]) == set(photographs.TITLES) and all(0 <= value <= 1 for value in one["accuracy"].values())
    assert one["rate"] == 0.001 and one["rows"] == [27, 50, 40]
    assert "fine-tuning the whole network" in outcome.show(found)


def test_fine_tuning_of_a_pretrained_network_learns_and_leaves_the_given_one_and_its_batch_statistics_alone() -> None:
    net, rows = build(Architecture(name="resnet20", input_shape=(1, 8, 8), classes=10), 0), digits(0, 200)
    train(net, digits(300, 500), Training(epochs=4))
    before = {name: value.clone() for name, value in net.state_dict().items()}

    tuned = photo_tuning.fine_tuned(net, rows, rate=0.01, epochs=8, seed=0)

    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in tuned.state_dict().items() if "running" in name)
    assert tuning.accuracy_of(tuned, rows) > tuning.accuracy_of(net, rows) + 0.2


@pytest.mark.slow
def test_a_pretrained_core_is_given_a_head_and_forgets_a_class_that_it_never_saw() -> None:
    plan = caltech.Plan(core_each=3, user_each=5, removed=(1,), rank=8, ridge=1.0)
    core, user = caltech.divide(digits(0, 200), plan)

    found = caltech.measured(core, user, digits(900, 940), seen_digits(), plan)

    assert len(core) == 9 * 3 and len(user) == 50 and plan.late not in core.labels
    assert [one["gone"] for one in found.numbers["requests"]] == ["1", "the late class"]
    assert all(one["reached"] and one["error"] <= 1 for one in found.numbers["requests"])
    assert all(goal.met for goal in found.goals[:1])
    assert "features.18" in outcome.show(found)


@pytest.mark.slow
def test_all_layers_are_linearised_beside_taps_and_fine_tuning_of_the_same_network() -> None:
    plan = cifar.Plan(rank=16, ridge=None, sigma=None, epochs=1, budget=tuning.Budget(search=1, tune=1, scratch=0))

    one = cifar.scores(digits(0, 120), digits(120, 240), digits(900, 940), plan, seed=0)

    assert set(one["accuracy"]) == set(cifar.TITLES) and all(0 <= value <= 1 for value in one["accuracy"].values())
    assert one["p"] == 269_434 and one["passes"] > 0
    assert "all layers linearised" in outcome.show(cifar.outcome_of({"0": one}))


def test_requests_stand_beside_refitting_fine_tuning_and_a_new_network_on_what_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linearised, "REMOVED", (1, 20))
    trained: list[tuple[str, int]] = []
    for name in ("fine_tuned", "from_scratch"):
        done = getattr(linearised, name)
        spied = lambda first, rows, how, name=name, done=done: (trained.append((name, len(rows))), done(first, rows, how))[1]  # noqa: E731
        monkeypatch.setattr(linearised, name, spied)
    architecture = Architecture(name="convnet", input_shape=(1, 8, 8), classes=10, hidden=(4, 4, 8, 8))
    core, user = digits(0, 150), digits(150, 450)
    division = linearised.divide(core, user, digits(900, 1000), architecture, Training(epochs=3), ridge=1.0, sigma=0.1)

    found = linearised._forgetting(division, core, Training(epochs=1))

    sizes = {"1": 299, "20": 280, "a class": 300 - int((user.labels == 3).sum()), linearised.AFTER: 100}
    assert [one["gone"] for one in found] == list(sizes)
    assert trained == [each for stay in sizes.values() for each in (("fine_tuned", stay), ("from_scratch", stay + 150))]
    assert all(one["reached"] and one["after"] <= one["error"] <= 0.2 * 0.1 and one["before"] > one["after"] for one in found)
    cell = linearised._accuracy(division)
    cell["accuracy"] |= dict.fromkeys(("network", "exact", "fine_tune"), 0.5)
    told = {goal.what: goal for goal in linearised.outcome_of({"0": cell | {"forgetting": found}}).goals}
    slower = max(one["seconds"] / one["tuned_seconds"] for one in found) >= 1
    assert told["time of a request, of fine-tuning the core network once more"].met != slower


def test_fewer_user_rows_are_scored_on_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(few, "BUDGET", tuning.Budget(search=1, tune=1, scratch=0))
    architecture = Architecture(name="convnet", input_shape=(1, 8, 8), classes=10, hidden=(4, 4, 8, 8))

    one = few.scores(digits(0, 150), digits(150, 300), digits(900, 1000), architecture, Training(epochs=4), (30, 120))
    found = few.outcome_of({"0": one})

    assert list(one["rows"]) == ["30", "120"]
    little, more = (one["rows"][count]["accuracy"] for count in ("30", "120"))
    assert set(little) == set(linearised.TITLES) and little["core"] == more["core"] and little["network"] == more["network"]
    assert little["whole"] != more["whole"] and more["whole"] > more["core"]
    assert [goal.met for goal in found.goals] == [row["accuracy"]["whole"] >= row["accuracy"]["fine_tune"] for row in one["rows"].values()]
    assert "120 user rows" in outcome.show(found)


@pytest.mark.slow
def test_a_fit_gives_the_same_files_with_any_number_of_workers() -> None:
    if missing := no_servers():
        pytest.skip(missing)
    copies = [digits(0, 1797) for _ in range(3)]
    ids = tuple(f"{n}-{name}" for n, copy in enumerate(copies) for name in copy.ids)
    rows = Samples(torch.cat([c.inputs for c in copies]), torch.cat([c.labels for c in copies]), ids)

    found = wide.run(rows, core=600, part_rows=1000, rounds=1)

    assert {n: len(fits) for n, fits in found.numbers["fits"].items()} == {"1": 1, "2": 1, "4": 1}
    assert all(fit[wide.PHASE] > 0 for fits in found.numbers["fits"].values() for fit in fits)
    assert wide.PHASE in outcome.show(found)


@pytest.mark.slow
def test_latency_measures_a_live_service() -> None:
    found = latency.run(2, core_epochs=1)

    assert len(found.numbers["requests"]) == 2
    for request in found.numbers["requests"]:
        parts = sum(seconds for name, seconds in request.items() if name not in ("total", "known"))
        assert 0 < request["job: forgetting"] < request["total"] < 60
        assert parts == pytest.approx(request["total"], rel=0.5)


def test_benchmarks_without_data_are_skipped_and_say_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv(data.VARIABLE, raising=False)

    ended = __main__.main(["removals"])

    assert ended == 0
    assert f"removals skipped: set {data.VARIABLE}" in capsys.readouterr().err


def test_parts_drawn_share_no_sample() -> None:
    first, second = data.draw(digits(0, 100), (60, 40), seed=3)

    assert len(set(first.ids) | set(second.ids)) == 100
    with pytest.raises(ValueError, match="101 samples"):
        data.draw(digits(0, 100), (60, 41), seed=3)
