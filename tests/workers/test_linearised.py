"""What a linearised model's form and a request's wish mean, what is refused early, and how numbers are told: never better than they are."""

from __future__ import annotations

from pathlib import Path

import pyarrow.compute as pc
import pytest

from models import gaussian
from models.progress import silent
from service.blobs import directory_vault
from tests.digits import Digits
from tests.workers.test_parts import decoded
from workers.artifacts import Shelf, index_of, pack_table
from workers.failure import Failure
from workers.linearised import mu_of, rounded_up, samples
from workers.recipe import architecture_of, whole_of
from workers.report import Report
from workers.steps import linearised as steps

SPEC = {
    "architecture": {"name": "convnet", "activation": "leaky_relu", "bottleneck": None, "taps": None, "hidden": [4, 4, 4, 4]},
    "training": {"epochs": 10, "batch": None},
    "linearize": "all",
    "target": 5.0,
    "ridge": 10.0,
}


@pytest.mark.parametrize("mu_max", [0.2, 0.123456789, 1.0, 9.99999999, 1e-3])
def test_without_a_wish_the_models_own_mu_holds_rounded_down_to_what_is_written(mu_max: float) -> None:
    mu = mu_of(None, mu_max=mu_max)

    assert mu_max * (1 - 1e-5) <= mu <= mu_max
    assert float(f"{mu:.6g}") <= mu_max


def test_a_stricter_wish_makes_mu_smaller_and_a_laxer_one_changes_nothing() -> None:
    strict = mu_of({"epsilon": 0.5, "delta": 1e-5}, mu_max=1.0)

    assert gaussian.delta(float(f"{strict:.6g}"), 0.5) <= 1e-5
    assert strict == pytest.approx(gaussian.mu_of(0.5, 1e-5), rel=1e-5)
    assert mu_of({"nats": 0.02}, mu_max=1.0) == pytest.approx(0.2)
    assert mu_of({"nats": 0.02}, mu_max=0.1) == 0.1
    assert mu_of({"epsilon": 0.0, "delta": 1e-9}, mu_max=0.2) == 0.0


@pytest.mark.parametrize(("number", "text"), [(0.2, "0.2"), (0.201, "0.21"), (1.0001, "1.1"), (99.1, "100"), (0.0, "0")])
def test_a_best_mu_is_told_in_two_digits_and_never_smaller(number: float, text: str) -> None:
    assert rounded_up(number) == text
    assert float(rounded_up(number)) >= number
    assert rounded_up(float("inf")) == rounded_up(float("nan")) == "infinite"


def test_sigma_is_chosen_for_the_kind_of_noise_that_the_model_names(data: Digits) -> None:
    plan, table = {"dataset": {"shape": [1, 8, 8]}}, decoded(data)
    core_rows = samples(table.filter(pc.equal(table["role"], "core")), plan, list(range(10)))

    def sigma(noise: str) -> float:
        spec = SPEC | {"release": {"mu_max": 0.2, "sigma": None, "rank": 64, "noise": noise}}
        return whole_of(spec, architecture_of(spec, (1, 8, 8), 10), core_rows, given=None, progress=silent).core.sigma

    isotropic, shaped = sigma("isotropic"), sigma("core")

    assert 0.001 < isotropic < shaped / 2


def test_a_user_label_that_no_class_has_is_told_before_a_core_is_trained(
    data: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "whole_of", lambda *_, **__: pytest.fail("a core was trained"))
    table = decoded(data)
    table = table.filter(pc.or_(pc.equal(table["role"], "user"), pc.not_equal(table["label"], 9)))
    shelf = Shelf(directory_vault(tmp_path / "blobs", tmp_path / "keys"), "data-1-")
    blocks, index = [[0, shelf.put(pack_table(table)).blob_id]], shelf.put(pack_table(index_of([table]))).blob_id
    plan = {"given_core": None, "dataset": {"blocks": blocks, "index": index, "shape": [1, 8, 8]}, "spec": SPEC | {"classes": None}}

    with pytest.raises(Failure) as failed:
        steps.fit(plan, shelf, Report(lambda phase, done: None))

    assert failed.value.code == "label_unknown"
    assert (
        str(len([None for role, label in zip(data.roles, data.labels, strict=True) if (role, label) == ("user", 9)])) in failed.value.detail
    )
