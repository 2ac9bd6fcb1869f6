"""All that an erased model computes passes its adapter, and its rows are still a function of sample and core alone."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch
from stand_in import DIGITS, QUICK, Fixed
from test_nets import SMALL, images, lived_in
from torch import Tensor

from models.forget.exact import forget
from models.forget.refit import weights_of
from models.linear.core import Core, CoreMismatch, core_statistics, core_tensors, encode, fit_core, load_core, logits, plain_core
from models.linear.features import BATCH, activations
from models.linear.statistics import add
from models.linear.tangent import linearise, outputs, prepare
from models.linear.whole_file import load_whole, whole_tensors
from models.linear.whole_fit import fit_whole
from models.nets import NETS, Adapter, Architecture, Network, adapter_of, build
from models.nets.draws import normals, uniforms

AFFINE, MLP = Adapter(kind="affine"), Adapter(kind="mlp", hidden=(9, 5), skip=True)
CODE = Adapter(kind="mlp", hidden=(9,), code=2)
QUANTIZED, NOISE = Adapter(kind="quantized", bits=6), Adapter(kind="noise", sigma=0.5)
EVERY = (Adapter(kind="identity"), AFFINE, MLP, QUANTIZED, NOISE, MLP.then(AFFINE).then(NOISE), QUANTIZED.then(NOISE), CODE)


def adapted(net: Network, adapter: Adapter, seed: int = 0) -> Network:
    """The same network with a random adapter."""
    architecture = replace(net.architecture, adapter=adapter, taps=None)
    out = build(architecture, seed)
    draw = torch.Generator().manual_seed(seed)
    for name, value in out.named_parameters():
        if name.startswith("adapter."):
            value.data += 0.3 * torch.randn(value.shape, generator=draw)
    for name, value in out.named_buffers():
        if name.endswith(".key"):
            value.copy_(torch.randint(0, 256, (32,), generator=draw, dtype=torch.uint8))
    out.load_state_dict(out.state_dict() | net.state_dict())
    return out.requires_grad_(False).eval()


def erased_core(fixed: Fixed, adapter: Adapter) -> Core:
    assert fixed.core.net is not None
    net = adapted(fixed.core.net, adapter)
    return fit_core(net.architecture, fixed.core_samples, QUICK, expected_rows=300, ridge=10.0, weights=net.state_dict())


@pytest.mark.parametrize("adapter", EVERY, ids=lambda a: "-".join(part.kind for part in a.parts))
def test_an_adapter_written_down_and_read_is_the_same(adapter: Adapter) -> None:
    assert adapter_of(adapter.form()) == adapter
    assert adapter_of(adapter.form()).form() == adapter.form()


@pytest.mark.parametrize("name", NETS)
def test_every_net_takes_an_adapter_and_is_itself_with_the_identity(name: str) -> None:
    net = lived_in(build(Architecture(name=name, input_shape=SMALL, classes=4), 0))

    same = adapted(net, Adapter(kind="identity"))
    other = adapted(net, MLP)

    inputs = images(SMALL, 3)
    assert same.taps == ("adapter",)
    assert same.parts[same.parts.index("adapter") - 1] == net.bottleneck
    assert torch.equal(same(inputs), net(inputs))
    assert not torch.equal(other(inputs), net(inputs))


@pytest.mark.parametrize("name", NETS)
def test_an_adapter_that_gives_zero_leaves_nothing_of_the_input(name: str) -> None:
    net = adapted(lived_in(build(Architecture(name=name, input_shape=SMALL, classes=4), 0)), AFFINE)
    before = activations(net, images(SMALL, 5))

    net.links.get_submodule("0").weight.data.zero_()  # type: ignore[union-attr, operator]
    taps, out = activations(net, images(SMALL, 5))

    assert all(len(found.unique(dim=0)) == 5 for found in before)
    assert len(taps.unique(dim=0)) == len(out.unique(dim=0)) == 1


def test_of_a_code_of_two_values_no_more_than_two_directions_pass() -> None:
    net = adapted(lived_in(build(Architecture(name="mlp", input_shape=(7,), classes=4), 0)), CODE)

    taps, _ = activations(net, torch.randn(60, 7, generator=torch.Generator().manual_seed(0)))

    sizes = torch.linalg.svdvals((taps - taps.mean(0)).double())
    assert float(sizes[1]) > 1e-2 * float(sizes[0]) > 1e4 * float(sizes[2])


def test_maps_are_flattened_for_the_adapter_and_restored_after_it() -> None:
    architecture = Architecture(name="convnet", input_shape=SMALL, classes=4, bottleneck="stage3", hidden=(4, 4, 6, 5))
    net = lived_in(build(architecture, 0))
    inputs = images(SMALL, 3)

    same, mixed = adapted(net, Adapter(kind="identity")), adapted(net, AFFINE)

    assert torch.equal(same(inputs), net(inputs))
    assert mixed.links.width == 6 * 3 * 3
    assert mixed(inputs).shape == (3, 4) and not torch.equal(mixed(inputs), net(inputs))


@pytest.mark.parametrize("adapter", [MLP, QUANTIZED, QUANTIZED.then(NOISE)], ids=["mlp", "quantized", "chain"])
@pytest.mark.parametrize("name", ["mlp", "convnet"])
def test_a_row_has_the_same_bits_at_every_place_and_in_any_company(name: str, adapter: Adapter) -> None:
    net = adapted(lived_in(build(Architecture(name=name, input_shape=SMALL, classes=10), 0)), adapter)
    inputs = images(SMALL, BATCH)
    order = torch.randperm(BATCH, generator=torch.Generator().manual_seed(2))
    taps, out = activations(net, inputs)

    moved = activations(net, inputs[order])
    alone = activations(net, inputs[100:101])

    assert torch.equal(moved[0], taps[order]) and torch.equal(moved[1], out[order])
    assert torch.equal(alone[0][0], taps[100]) and torch.equal(alone[1][0], out[100])


@pytest.mark.parametrize("adapter", [MLP.then(AFFINE), QUANTIZED, NOISE], ids=["learned", "quantized", "noise"])
def test_forgetting_samples_of_an_erased_model_is_exact_to_the_bit(fixed: Fixed, adapter: Adapter) -> None:
    core = erased_core(fixed, adapter)
    begun = core_statistics(core, fixed.core_samples.inputs)
    kept = fixed.user.select(range(20, 300))
    rows, gone = (encode(core, part.inputs, part.labels) for part in (fixed.user, fixed.user.select(range(20))))
    all_of_them = add(begun, rows)

    after = forget(all_of_them, gone, core)

    refitted = add(begun, encode(core, kept.inputs, kept.labels))
    assert torch.equal(after.statistics.A, refitted.A) and torch.equal(after.statistics.B, refitted.B)
    assert torch.equal(after.weights, weights_of(core, refitted))
    assert not torch.equal(weights_of(core, all_of_them), weights_of(core, refitted))
    assert core.architecture.adapter == adapter and core.net is not None and core.net.taps == ("adapter",)


@pytest.mark.parametrize("adapter", [MLP.then(AFFINE), QUANTIZED, NOISE], ids=["learned", "quantized", "noise"])
def test_an_erased_core_written_down_and_loaded_is_the_same_core(fixed: Fixed, adapter: Adapter) -> None:
    core = erased_core(fixed, adapter)
    weights = 0.01 * torch.randn(core.d, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    tensors = core_tensors(core)
    loaded = load_core(core.architecture, tensors)

    assert any(name.startswith("net.adapter.0.") for name in tensors)
    assert torch.equal(logits(loaded, weights, fixed.test.inputs), logits(core, weights, fixed.test.inputs))
    with pytest.raises(CoreMismatch, match=r"^net\.adapter\.0\.[a-z.0-9]* is missing"):
        load_core(core.architecture, {name: value for name, value in tensors.items() if ".adapter.0." not in name})
    with pytest.raises(CoreMismatch, match=r"^net\.adapter is missing"):
        load_core(core.architecture, {name: value for name, value in tensors.items() if not name.startswith("net.")})


def test_a_drawn_value_is_a_function_of_input_and_key_alone() -> None:
    inputs, key = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), bytes(range(32))

    drawn = uniforms(key, inputs, 5)

    assert torch.equal(uniforms(key, inputs[[2, 0]], 5), drawn[[2, 0]])
    assert torch.equal(uniforms(key, -0.0 * inputs, 5), uniforms(key, 0.0 * inputs, 5))
    others = (uniforms(bytes(32), inputs, 5), uniforms(key, inputs + 1e-6, 5), uniforms(key, inputs, 5, link=1))
    assert all(float((other - drawn).abs().min()) > 0 for other in others)
    assert uniforms(key, inputs, 3).equal(drawn[:, :3])


def test_draws_are_uniform_and_normal() -> None:
    inputs = torch.arange(2000, dtype=torch.float32)[:, None]

    even, bell = uniforms(bytes(32), inputs, 20).flatten().sort().values, normals(bytes(32), inputs, 20).flatten()

    steps = (torch.arange(40_000, dtype=torch.float64) + 0.5) / 40_000
    assert float((even - steps).abs().max()) < 1.63 / 200  # Kolmogorov: 1 % at 1.63 / sqrt(n)
    assert float(even[0]) > 0 and float(even[-1]) < 1
    assert abs(float(bell.mean())) < 0.02 and abs(float(bell.std()) - 1) < 0.02


@pytest.mark.parametrize("adapter", [QUANTIZED, NOISE], ids=["quantized", "noise"])
def test_serving_stays_stochastic_over_inputs_and_keys(adapter: Adapter) -> None:
    net = lived_in(build(Architecture(name="mlp", input_shape=(4,), classes=3), 0))
    point = torch.randn(1, 4, generator=torch.Generator().manual_seed(3))
    inputs = point + 1e-6 * torch.arange(64)[:, None]  # one point, as far as the network can see

    first, again, other_key = (adapted(net, adapter, seed)(inputs) for seed in (0, 0, 1))

    assert torch.equal(first, again)
    assert len(first.unique(dim=0)) > 3
    assert not torch.equal(first, other_key)


def test_a_stochastic_adapter_without_the_raw_inputs_is_refused() -> None:
    net = adapted(lived_in(build(Architecture(name="mlp", input_shape=(4,), classes=3), 0)), QUANTIZED)
    hidden = net.run(torch.randn(2, 4), net.before)

    with pytest.raises(ValueError, match="needs the raw inputs"):
        net.run(hidden, ("adapter", *net.after))


@pytest.mark.parametrize("taps", [("stage3",), ("adapter", "stage4"), ("stage4.0",), ("pool",), ("adapter.0",)])
def test_taps_before_the_adapter_are_refused(taps: tuple[str, ...]) -> None:
    architecture = replace(DIGITS, adapter=AFFINE, taps=taps)

    with pytest.raises(ValueError, match="pass the adapter by"):
        build(architecture, 0)
    assert build(replace(architecture, taps=("adapter", "fc")), 0).taps == ("adapter", "fc")
    assert build(replace(architecture, bottleneck="stage2", taps=("stage4.0", "pool")), 0).taps == ("stage4.0", "pool")


def test_a_bottleneck_that_is_no_part_or_too_wide_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"not 'stage4\.0': use one of input, stage1, stage2, stage3, stage4, pool, fc"):
        build(replace(DIGITS, adapter=AFFINE, bottleneck="stage4.0"), 0)
    with pytest.raises(ValueError, match=r"12,544 values, an adapter takes at most 4,096"):
        build(Architecture(name="convnet", input_shape=(1, 28, 28), classes=10, adapter=AFFINE, bottleneck="stage1"), 0)


def test_a_network_with_an_adapter_is_never_trained_for_the_task_alone(fixed: Fixed) -> None:
    with pytest.raises(ValueError, match="bring the attribute back"):
        fit_core(replace(DIGITS, adapter=AFFINE), fixed.core_samples, QUICK, expected_rows=300, ridge=10.0)
    with pytest.raises(ValueError, match="passes an adapter"):
        plain_core(Architecture(name="linear", input_shape=(3,), classes=2, adapter=AFFINE), range=1.0, ridge=1.0)


def test_only_layers_after_the_adapter_are_linearised(fixed: Fixed) -> None:
    assert fixed.core.net is not None
    net = adapted(fixed.core.net, QUANTIZED)

    tangent = linearise(net, None)

    assert tangent.names == ("fc.weight", "fc.bias")
    rows = prepare(tangent, fixed.test.inputs[:40])
    assert torch.allclose(outputs(tangent, rows), net(fixed.test.inputs[:40]).double(), atol=1e-5)
    for layer in ("stage4", "adapter", "stage1"):
        with pytest.raises(ValueError, match="after the adapter"):
            linearise(net, (layer, "fc"))


def test_a_linearised_erased_core_is_fitted_written_and_loaded(fixed: Fixed) -> None:
    assert fixed.core.net is not None
    net = adapted(fixed.core.net, QUANTIZED)

    given = {"ridge": 10.0, "sigma": 0.1, "layers": None, "random_bytes": os.urandom, "rank": 20, "weights": net.state_dict()}
    fit = fit_whole(net.architecture, fixed.core_samples, QUICK, **given)  # type: ignore[arg-type]
    loaded = load_whole(net.architecture, None, whole_tensors(fit.core, mu_max=0.2))

    assert torch.equal(loaded.weight, fit.core.weight) and bool(loaded.weight.any())
    assert torch.equal(loaded.tangent.net(fixed.test.inputs), net(fixed.test.inputs))
    assert loaded.tangent.names == ("fc.weight", "fc.bias")


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({"kind": "magic"}, "magic"),
        ({}, "one of"),
        ({"kind": "affine", "hidden": [3]}, "hidden"),
        ({"kind": "mlp"}, "hidden"),
        ({"kind": "mlp", "hidden": [0]}, "hidden"),
        ({"kind": "mlp", "hidden": [True]}, "hidden"),
        ({"kind": "mlp", "hidden": [3], "code": -1}, "code"),
        ({"kind": "affine", "code": 1}, "code"),
        ({"kind": "quantized"}, "bits"),
        ({"kind": "quantized", "bits": 2000}, "bits"),
        ({"kind": "quantized", "bits": 8, "threshold": True}, "threshold"),
        ({"kind": "noise", "sigma": float("nan")}, "sigma"),
        ({"kind": "noise", "sigma": "1"}, "sigma"),
        ({"kind": "chain", "links": []}, "links"),
        ({"kind": "chain", "links": ["affine"]}, "links"),
        ({"kind": "chain", "links": [{"kind": "chain", "links": [{"kind": "affine"}]}]}, "chain"),
    ],
)
def test_forms_that_no_adapter_has_are_refused_by_field(form: dict[str, object], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        adapter_of(form)


def test_the_thread_of_draws_does_not_touch_the_global_generator() -> None:
    torch.manual_seed(4)
    expected = torch.rand(1)
    torch.manual_seed(4)

    net = adapted(lived_in(build(Architecture(name="mlp", input_shape=(4,), classes=3), 0)), QUANTIZED)
    out: Tensor = net(torch.ones(2, 4))

    assert out.shape == (2, 3)
    assert torch.equal(torch.rand(1), expected)
