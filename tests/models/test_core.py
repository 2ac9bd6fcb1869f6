"""A core gives fixed integers, its own output when there is no user, and a file that is checked before it is believed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from stand_in import DIGITS, QUICK, Fixed, digits
from torch import Tensor

from models.linear.core import (
    CoreMismatch,
    core_logits,
    core_statistics,
    core_tensors,
    encode,
    fit_core,
    load_core,
    logits,
    logits_of_rows,
    plain_core,
)
from models.linear.features import BATCH, NotFinite, activations, quantise, standardisation, to_int16
from models.linear.frozen import exactly_summable, linear_part, target_scale
from models.linear.statistics import LARGEST
from models.nets import Architecture
from models.progress import Stopped

PLAIN = Architecture(name="linear", input_shape=(3,), classes=2)


def test_integer_features_are_the_standardised_taps_and_a_constant(fixed: Fixed) -> None:
    core = fixed.core
    assert core.net is not None
    taps = activations(core.net, fixed.user.inputs)[0].numpy().astype(float)

    found = fixed.rows.features.numpy()

    phi = (taps[:, core.tap_index.numpy()] - core.tap_mean.numpy()) / core.tap_scale.numpy()
    assert np.array_equal(found[:, :-1], np.clip(np.rint(phi * 4096), -LARGEST, LARGEST).astype(np.int16))
    assert (found[:, -1] == 4096).all()
    assert found.min() >= -LARGEST
    assert core.feature_scale == 2.0**-12


def test_core_features_are_centred_and_of_unit_size_over_core_rows(fixed: Fixed) -> None:
    q = encode(fixed.core, fixed.core_samples.inputs, fixed.core_samples.labels).features[:, :-1].double() / 4096

    assert float(q.mean(0).abs().max()) < 0.1  # not 0: rare large values are cut at 8
    assert float((q.std(0) - 1).abs().median()) < 0.01


def test_features_that_do_not_vary_over_the_core_are_dropped_and_their_places_kept() -> None:
    taps = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    taps[:, 1] = 3.0
    taps[:, 4] = 0.1 + 1e-8 * taps[:, 0]

    index, mean, scale = standardisation(taps)

    assert index.tolist() == [0, 2, 3, 5]
    assert torch.allclose(mean, taps.double().mean(0)[index])
    assert torch.allclose(scale, taps.double().std(0, unbiased=False)[index])


def test_values_beyond_the_range_are_cut_counted_and_never_the_lowest_integer() -> None:
    taps = torch.tensor([[1e30, -1e30, 8.1, -8.1, 7.9999, 0.5 / 4096, 1.5 / 4096]])
    nothing, one = torch.zeros(7, dtype=torch.float64), torch.ones(7, dtype=torch.float64)

    q, saturated = quantise(taps, index=torch.arange(7), mean=nothing, scale=one)

    assert q.tolist() == [[32767, -32767, 32767, -32767, 32767, 0, 2, 4096]]  # ties go to the even integer; 7.9999 * 4096 is 32767.6
    assert saturated == 5
    assert to_int16(torch.tensor([32767.4, -32767.4, 32767.5]))[1] == 1


def test_targets_are_the_residuals_in_units_of_their_scale(fixed: Fixed) -> None:
    core = fixed.core
    wanted = np.eye(10)[fixed.user.labels.numpy()] * core.target - core_logits(core, fixed.user.inputs).numpy()

    found = fixed.rows.targets.double().numpy() * core.target_scale

    assert np.abs(found - wanted).max() <= core.target_scale / 2
    assert Fraction(core.target_scale).numerator == 1  # a power of two below 1
    assert core.target_scale * LARGEST >= 4 * core.target


def test_f0_is_the_scaled_network_plus_the_linear_part(fixed: Fixed) -> None:
    core = fixed.core
    assert core.net is not None
    net_logits = activations(core.net, fixed.test.inputs)[1].numpy().astype(float)
    q = encode(core, fixed.test.inputs, fixed.test.labels).features.numpy().astype(float)

    found = core_logits(core, fixed.test.inputs).numpy()

    assert np.allclose(found, core.logit_scale * net_logits + q @ core.weight.numpy() / 4096, rtol=0, atol=1e-12)
    assert core.logit_scale > 0


def test_w_core_is_the_minimiser_over_the_core_rows(fixed: Fixed) -> None:
    core = fixed.core
    assert core.net is not None
    q = encode(core, fixed.core_samples.inputs, fixed.core_samples.labels).features.numpy().astype(float) / 4096
    net_logits = core.logit_scale * activations(core.net, fixed.core_samples.inputs)[1].numpy().astype(float)
    wanted = np.concatenate([np.eye(10)[fixed.core_samples.labels.numpy()] * core.target - net_logits, np.zeros((core.d, 10))])

    truth = np.linalg.lstsq(np.concatenate([q, np.sqrt(core.ridge) * np.eye(core.d)]), wanted, rcond=None)[0]

    assert np.linalg.norm(core.weight.numpy() - truth) <= 1e-7 * np.linalg.norm(truth)


def test_the_linear_part_is_exact_and_so_free_of_order() -> None:
    draw = torch.Generator().manual_seed(0)
    features = torch.randint(-LARGEST, LARGEST + 1, (5, 700), generator=draw).to(torch.int16)
    raw = torch.randn(700, 2, generator=draw, dtype=torch.float64)
    weight = exactly_summable(raw)

    found = linear_part(features, weight, scale=1.0)

    exact = [[sum(q * Fraction(w) for q, w in zip(row, column, strict=True)) for column in weight.T.tolist()] for row in features.tolist()]
    rough = linear_part(features, raw, scale=1.0)
    rough_exact = [
        [sum(q * Fraction(w) for q, w in zip(row, column, strict=True)) for column in raw.T.tolist()] for row in features.tolist()
    ]
    assert [[Fraction(v) for v in row] for row in found.tolist()] == exact
    assert [[Fraction(v) for v in row] for row in rough.tolist()] != rough_exact
    assert torch.equal(exactly_summable(weight), weight)
    assert float((weight - raw).abs().max()) < 1e-8 * float(raw.abs().max())


def test_a_rows_integers_do_not_depend_on_its_place_or_company(fixed: Fixed) -> None:
    inputs, labels = fixed.user.inputs, fixed.user.labels
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))

    moved = encode(fixed.core, inputs[order], labels[order])
    one_by_one = [encode(fixed.core, inputs[i : i + 1], labels[i : i + 1]) for i in (0, 150, 299)]

    assert torch.equal(moved.features, fixed.rows.features[order]) and torch.equal(moved.targets, fixed.rows.targets[order])
    for i, row in zip((0, 150, 299), one_by_one, strict=True):
        assert torch.equal(row.features[0], fixed.rows.features[i]) and torch.equal(row.targets[0], fixed.rows.targets[i])


def test_a_model_without_user_weights_gives_the_cores_logits_bit_for_bit(fixed: Fixed) -> None:
    nothing = torch.zeros(fixed.core.d, 10, dtype=torch.float64)
    something = nothing.clone()
    something[3, 4] = 1e-3

    assert torch.equal(logits(fixed.core, nothing, fixed.test.inputs), core_logits(fixed.core, fixed.test.inputs))
    assert not torch.equal(logits(fixed.core, something, fixed.test.inputs), core_logits(fixed.core, fixed.test.inputs))


def test_the_linear_part_and_its_adjoint_agree(fixed: Fixed) -> None:
    """S1 for features: <J v, u> = <v, J^T u> with J v = s q^T v, and f is linear in w, so its difference quotient is J v."""
    draw = torch.Generator().manual_seed(1)
    v = torch.randn(fixed.core.d, 10, generator=draw, dtype=torch.float64)
    u = torch.randn(300, 10, generator=draw, dtype=torch.float64)
    v /= v.norm()

    Jv = linear_part(fixed.rows.features, v, scale=fixed.core.feature_scale)
    JTu = fixed.core.feature_scale * (fixed.rows.features.double().T @ u)

    step = 1e-6
    moved = logits(fixed.core, step * v, fixed.user.inputs) - core_logits(fixed.core, fixed.user.inputs)
    assert abs(float((Jv * u).sum() - (v * JTu).sum())) <= 1e-12 * float(Jv.norm() * u.norm())
    assert float((moved - step * Jv).norm()) <= 1e-4 * float((step * Jv).norm())
    assert float((moved - step * 1.01 * Jv).norm()) > 5e-3 * float((step * Jv).norm())  # one percent off would be seen


def test_logits_of_stored_rows_are_those_of_the_samples_up_to_the_rounding_of_targets(fixed: Fixed) -> None:
    weights = 0.01 * torch.randn(fixed.core.d, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    found = logits_of_rows(fixed.core, weights, fixed.rows, fixed.user.labels)

    assert float((found - logits(fixed.core, weights, fixed.user.inputs)).abs().max()) <= fixed.core.target_scale / 2 + 1e-12


def test_the_plain_model_divides_by_the_range_and_starts_from_nothing() -> None:
    core = plain_core(PLAIN, range=2.0, ridge=1.0, target=5.0)
    inputs = torch.tensor([[1.0, -2.0, 0.0], [0.0, 0.5, 100.0]])

    rows = encode(core, inputs, torch.tensor([0, 1]))

    assert rows.features.tolist() == [[2048, -4096, 0, 4096], [0, 1024, 32767, 4096]]
    assert rows.saturated == 1
    assert (rows.targets.double() * core.target_scale).tolist() == [[5.0, 0.0], [0.0, 5.0]]
    assert torch.equal(core_logits(core, inputs), torch.zeros(2, 2, dtype=torch.float64))
    assert not core_statistics(core, inputs[:0]).A.any()
    assert core.d == 4


def test_the_plain_model_takes_images_as_raw_pixels() -> None:
    core = plain_core(Architecture(name="linear", input_shape=(1, 8, 8), classes=10), range=255.0, ridge=1.0, target=5.0)
    samples = digits(0, 5, "x")

    rows = encode(core, samples.inputs, samples.labels)

    assert torch.equal(rows.features[:, :-1], (samples.inputs.flatten(1).double() / 255 * 4096).round().to(torch.int16))


def test_what_cannot_be_encoded_is_refused_with_the_row() -> None:
    core = plain_core(PLAIN, range=1.0, ridge=1.0, target=5.0)
    bad = torch.zeros(300, 3)
    bad[270, 0] = float("nan")

    with pytest.raises(NotFinite, match="row 270 "):
        encode(core, bad, torch.zeros(300, dtype=torch.int64))
    with pytest.raises(ValueError, match="row 1 has label 2, outside the 2 classes"):
        encode(core, torch.zeros(2, 3), torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="do not fit"):
        encode(core, torch.zeros(2, 4), torch.tensor([0, 1]))
    for name in ("range", "ridge", "target"):
        with pytest.raises(ValueError, match=name):
            plain_core(PLAIN, **{"range": 1.0, "ridge": 1.0, "target": 5.0, name: 0.0})


def test_a_core_written_down_and_loaded_is_the_same_core(fixed: Fixed) -> None:
    loaded = load_core(DIGITS, core_tensors(fixed.core))

    assert all(torch.equal(value, core_tensors(fixed.core)[name]) for name, value in core_tensors(loaded).items())
    assert torch.equal(encode(loaded, fixed.user.inputs, fixed.user.labels).features, fixed.rows.features)
    assert torch.equal(encode(loaded, fixed.user.inputs, fixed.user.labels).targets, fixed.rows.targets)
    assert loaded.net is not None and not loaded.net.training


def test_a_core_without_network_is_written_down_too() -> None:
    core = plain_core(PLAIN, range=2.0, ridge=1.0, target=5.0)

    tensors = core_tensors(core)
    loaded = load_core(PLAIN, tensors)

    assert not any(name.startswith("net.") for name in tensors)
    assert loaded.net is None
    assert all(tensors[name].shape == () for name in ("feature_scale", "target_scale", "logit_scale", "ridge", "target"))
    assert torch.equal(core_logits(loaded, torch.ones(2, 3)), core_logits(core, torch.ones(2, 3)))


def without(name: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.__delitem__(name)


def changed(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.__setitem__(name, change(tensors[name]))


def with_nan(value: Tensor) -> Tensor:
    out = value.clone()
    out.view(-1)[0] = float("nan")
    return out


DAMAGE: dict[str, tuple[str, Callable[[dict[str, Tensor]], None]]] = {
    "missing weight": ("net.fc.weight", without("net.fc.weight")),
    "missing scalar": ("ridge", without("ridge")),
    "missing mean": ("tap.mean", without("tap.mean")),
    "extra": ("net.fc.extra", lambda tensors: tensors.__setitem__("net.fc.extra", torch.zeros(1))),
    "extra beside the net": ("surprise", lambda tensors: tensors.__setitem__("surprise", torch.zeros(1))),
    "shape of the net": ("net.fc.weight", changed("net.fc.weight", lambda t: t[:-1])),
    "shape of w_core": ("core.weight", changed("core.weight", lambda t: t.T)),
    "shape of a scalar": ("target", changed("target", lambda t: t.view(1))),
    "shape of the scale": ("tap.scale", changed("tap.scale", lambda t: t[1:])),
    "type of the net": ("net.stage1.0.bias", changed("net.stage1.0.bias", lambda t: t.double())),
    "type of w_core": ("core.weight", changed("core.weight", lambda t: t.float())),
    "NaN in the net": ("net.stage1.0.bias", changed("net.stage1.0.bias", with_nan)),
    "NaN in w_core": ("core.weight", changed("core.weight", with_nan)),
    "index beyond the taps": ("tap.index", changed("tap.index", lambda t: t + 1000)),
    "index twice": ("tap.index", changed("tap.index", lambda t: torch.cat([t[:1], t[:-1]]))),
    "scale of zero": ("tap.scale", changed("tap.scale", torch.zeros_like)),
    "ridge of zero": ("ridge", changed("ridge", torch.zeros_like)),
    "target scale that is no power of two": ("target_scale", changed("target_scale", lambda t: t * 1.5)),
    "other feature scale": ("feature_scale", changed("feature_scale", lambda t: t * 2)),
    "w_core with digits too many": ("core.weight", changed("core.weight", lambda t: t * (1 / 3))),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_file_that_does_not_fit_is_refused_by_the_name_of_its_tensor(fixed: Fixed, name: str) -> None:
    tensor, damage = DAMAGE[name]
    tensors = core_tensors(fixed.core)
    damage(tensors)

    with pytest.raises(CoreMismatch) as refusal:
        load_core(DIGITS, tensors)

    assert str(refusal.value).split()[0] == tensor


def test_a_file_for_another_architecture_is_refused(fixed: Fixed) -> None:
    with pytest.raises(CoreMismatch):
        load_core(replace(DIGITS, classes=11), core_tensors(fixed.core))
    with pytest.raises(CoreMismatch):
        load_core(Architecture(name="mlp", input_shape=(1, 8, 8), classes=10), core_tensors(fixed.core))


def test_the_same_core_rows_give_the_same_core(fixed: Fixed) -> None:
    again = fit_core(DIGITS, fixed.core_samples, QUICK, expected_rows=300, ridge=10.0)

    assert all(torch.equal(value, core_tensors(fixed.core)[name]) for name, value in core_tensors(again).items())


def test_given_weights_are_used_as_they_are_and_refused_when_they_do_not_fit(fixed: Fixed) -> None:
    assert fixed.core.net is not None
    weights = fixed.core.net.state_dict()
    bare = {name: value for name, value in weights.items() if not name.startswith("input.")}

    same = fit_core(DIGITS, fixed.core_samples, QUICK, expected_rows=300, ridge=10.0, weights=weights)
    measured = fit_core(DIGITS, fixed.core_samples, QUICK, expected_rows=300, ridge=10.0, weights=bare)

    for core in (same, measured):
        assert all(torch.equal(value, core_tensors(fixed.core)[name]) for name, value in core_tensors(core).items())
    with pytest.raises(CoreMismatch, match=r"^fc\.weight is missing"):
        fit_core(DIGITS, fixed.core_samples, QUICK, expected_rows=300, weights={n: v for n, v in weights.items() if n != "fc.weight"})


def test_a_class_without_core_rows_can_be_declared_and_then_learnt_from_users(fixed: Fixed) -> None:
    known = fixed.core_samples.select(fixed.core_samples.labels < 9)

    core = fit_core(DIGITS, known, QUICK, expected_rows=300, ridge=10.0)
    rows = encode(core, fixed.user.inputs, fixed.user.labels)

    assert rows.targets.shape == (300, 10)
    assert int((core_logits(core, fixed.test.inputs).argmax(1) == 9).sum()) == 0


def test_a_core_that_cannot_be_fitted_is_refused(fixed: Fixed) -> None:
    with pytest.raises(ValueError, match="at least 2 rows"):
        fit_core(DIGITS, fixed.core_samples.select([0]), QUICK, expected_rows=1)
    with pytest.raises(ValueError, match="expected_rows"):
        fit_core(DIGITS, fixed.core_samples, QUICK, expected_rows=10**7)
    with pytest.raises(ValueError, match="ridge"):
        fit_core(DIGITS, fixed.core_samples, QUICK, expected_rows=1, ridge=-1.0)
    with pytest.raises(Stopped):
        fit_core(DIGITS, fixed.core_samples, QUICK, expected_rows=1, stop=lambda: True)


def test_the_scale_of_targets_holds_what_it_must() -> None:
    for largest in (0.1, 5.0, 400.0):
        scale = target_scale(5.0, largest=largest)

        assert LARGEST * scale >= max(20.0, 2 * largest)
        assert LARGEST * scale < 2.01 * max(20.0, 2 * largest)


def test_encoding_in_blocks_gives_the_rows_of_encoding_at_once(fixed: Fixed) -> None:
    parts = [encode(fixed.core, fixed.user.inputs[i : i + 77], fixed.user.labels[i : i + 77]) for i in range(0, 300, 77)]

    assert torch.equal(torch.cat([part.features for part in parts]), fixed.rows.features)
    assert sum(part.saturated for part in parts) == fixed.rows.saturated
    assert BATCH == 256
