"""Every network works at every size, has the taps that it names, and gives a row the same bits wherever it stands."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from models.linear.core_file import load_network
from models.linear.features import BATCH, NotFinite, activations, pooled_side, tap_width
from models.nets import NETS, Architecture, Network, build

CONVOLUTIONAL = ("convnet", "convnet7", "resnet20", "resnet18", "mobilenet_v2")
SMALL = (2, 9, 11)
DALMATIAN = 251  # of ImageNet's classes


def images(shape: tuple[int, ...], n: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def lived_in(net: Network) -> Network:
    """Give batch normalisation statistics that are not those of a fresh layer, and the input a scale."""
    draw = torch.Generator().manual_seed(1)
    for name, buffer in net.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(generator=draw)
        if name.endswith(("running_var", "input.std")):
            buffer.uniform_(0.5, 2.0, generator=draw)
    return net.eval()


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (2, 9, 23)])
@pytest.mark.parametrize("name", NETS)
def test_every_net_takes_any_size_and_number_of_channels(name: str, shape: tuple[int, ...]) -> None:
    net = build(Architecture(name=name, input_shape=shape, classes=4), 0).eval()

    out = net(images(shape, 2))

    layers = dict(net.named_modules())
    assert out.shape == (2, 4)
    assert out.dtype == torch.float32
    assert all(tap in layers for tap in net.taps) and net.bottleneck in layers
    assert next(iter(layers)) == "" and list(layers)[1] == "input"
    assert name == "linear" or tap_width(net, pooled_side(net)) < 4096


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_dense_nets_take_features_too(name: str) -> None:
    net = build(Architecture(name=name, input_shape=(7,), classes=3), 0).eval()

    taps, logits = activations(net, torch.randn(5, 7))

    assert logits.shape == (5, 3)
    assert taps.shape == (5, 7 if name == "linear" else 192)


def test_the_large_form_of_resnet18_and_other_large_nets_work() -> None:
    for name in ("resnet18", "convnet", "mobilenet_v2"):
        net = build(Architecture(name=name, input_shape=(3, 96, 96), classes=5), 0).eval()

        assert net(images((3, 96, 96), 1)).shape == (1, 5)
        assert tap_width(net, pooled_side(net)) < 4096


def test_public_weights_of_mobilenet_fit_by_name_and_shape_and_know_their_photographs() -> None:
    folder = Path(os.environ.get("EXPUNGE_BENCH_DATA", "."))
    path = folder / "weights" / "imagenet_mobilenet_v2_fp16.safetensors"
    if not path.exists():
        pytest.skip("EXPUNGE_BENCH_DATA does not name a folder with weights/")
    given = {name: value.float() if value.is_floating_point() else value for name, value in load_file(path).items()}
    pixels = {"input.mean": torch.full((3,), 0.5), "input.std": torch.full((3,), 0.5)}

    net = load_network(Architecture(name="mobilenet_v2", input_shape=(3, 128, 128), classes=1000), given | pixels)

    own = net.state_dict()
    assert set(own) == set(given) | set(pixels)
    assert sum(value.numel() for value in net.parameters()) == 3_504_872
    assert all(torch.equal(own[name], value) for name, value in given.items())
    with torch.inference_mode():
        named = net(images_of(folder / "caltech101_subset" / "test.parquet", "dalmatian")).argmax(dim=1)
    assert float((named == DALMATIAN).double().mean()) > 0.8


def images_of(path: Path, name: str) -> torch.Tensor:
    """Read the photographs of one class, `[n, 3, H, W]` uint8."""
    table = pytest.importorskip("pyarrow.parquet").read_table(path, columns=["image", "class_name"])
    cells = [image for image, of in zip(table["image"].to_pylist(), table["class_name"].to_pylist(), strict=True) if of == name]
    pixels = [np.asarray(Image.open(io.BytesIO(cell)).convert("RGB")) for cell in cells]
    return torch.from_numpy(np.stack(pixels).transpose(0, 3, 1, 2).copy())


def test_mobilenet_keeps_its_relu6_whatever_the_activation_is_called() -> None:
    shape = (1, 8, 8)
    nets = [build(Architecture(name="mobilenet_v2", input_shape=shape, classes=2, activation=kind), 0) for kind in ("relu", "tanh")]

    first, second = (lived_in(net)(images(shape, 3)) for net in nets)

    assert torch.equal(first, second)


def test_the_small_net_is_small() -> None:
    net = build(Architecture(name="convnet", input_shape=(1, 28, 28), classes=10), 0)

    assert sum(weight.numel() for weight in net.parameters()) == 16_698


@pytest.mark.parametrize("activation", ["relu", "tanh", "leaky_relu"])
def test_the_activation_is_a_choice(activation: str) -> None:
    shape = (1, 8, 8)
    net = build(Architecture(name="convnet", input_shape=shape, classes=2, activation=activation), 0).eval()
    reference = build(Architecture(name="convnet", input_shape=shape, classes=2), 0).eval()

    same = torch.equal(net(images(shape, 3)), reference(images(shape, 3)))

    assert same == (activation == "leaky_relu")


def test_the_seed_decides_the_weights_and_the_global_generator_is_left_alone() -> None:
    architecture = Architecture(name="resnet20", input_shape=(1, 8, 8), classes=2)
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)

    first, again, other = build(architecture, 1).state_dict(), build(architecture, 1).state_dict(), build(architecture, 2).state_dict()

    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


@pytest.mark.parametrize("name", NETS)
def test_a_row_has_the_same_bits_at_every_place_and_in_any_company(name: str) -> None:
    net = lived_in(build(Architecture(name=name, input_shape=SMALL, classes=10), 0))
    inputs = images(SMALL, BATCH)
    order = torch.randperm(BATCH, generator=torch.Generator().manual_seed(2))
    taps, logits = activations(net, inputs)

    moved = activations(net, inputs[order])
    alone = activations(net, inputs[100:101])
    last_of_many = activations(net, torch.cat([images(SMALL, BATCH + 30, seed=9), inputs[100:101]]))

    assert torch.equal(moved[0], taps[order]) and torch.equal(moved[1], logits[order])
    assert torch.equal(alone[0][0], taps[100]) and torch.equal(alone[1][0], logits[100])
    assert torch.equal(last_of_many[0][-1], taps[100]) and torch.equal(last_of_many[1][-1], logits[100])


@pytest.mark.parametrize("classes", [2, 3, 100])
@pytest.mark.parametrize("width", [3, 30, 785])
def test_dense_rows_too_whatever_the_widths(classes: int, width: int) -> None:
    for name in ("linear", "mlp"):
        net = lived_in(build(Architecture(name=name, input_shape=(width,), classes=classes), 0))
        inputs = torch.randn(BATCH, width, generator=torch.Generator().manual_seed(3))
        order = torch.randperm(BATCH, generator=torch.Generator().manual_seed(4))
        taps, logits = activations(net, inputs)

        moved = activations(net, inputs[order])

        assert torch.equal(moved[0], taps[order]) and torch.equal(moved[1], logits[order])


def test_batches_that_are_not_padded_would_be_caught() -> None:
    """The wrong variant: forward passes at the size that happens to come. If it never differs, the padding is not needed here."""
    net = lived_in(build(Architecture(name="mlp", input_shape=(785,), classes=10), 0))
    inputs = torch.randn(BATCH, 785, generator=torch.Generator().manual_seed(3))
    _, logits = activations(net, inputs)

    with torch.inference_mode():
        differs = any(not torch.equal(net(inputs[:size])[0], logits[0]) for size in (1, 2, 3, 5, 17))

    if not differs:
        pytest.skip("the kernels of this machine give a row the same bits at these batch sizes")


def test_the_thread_count_is_given_back_and_hooks_are_removed() -> None:
    net = build(Architecture(name="convnet", input_shape=(1, 8, 8), classes=2), 0).eval()
    torch.set_num_threads(2)

    activations(net, images((1, 8, 8), 3))

    assert torch.get_num_threads() == 2
    assert not any(module._forward_hooks for module in net.modules())


def test_a_net_in_train_mode_is_refused() -> None:
    net = build(Architecture(name="resnet20", input_shape=(1, 8, 8), classes=2), 0).train()

    with pytest.raises(ValueError, match="eval mode"):
        activations(net, images((1, 8, 8), 3))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_refused_with_its_row(value: float) -> None:
    net = build(Architecture(name="mlp", input_shape=(3,), classes=2), 0).eval()
    inputs = torch.zeros(600, 3)
    inputs[517, 1] = value

    with pytest.raises(NotFinite, match="row 517 "):
        activations(net, inputs)


def test_chosen_taps_and_bottleneck_are_used_and_unknown_ones_refused() -> None:
    chosen = Architecture(name="convnet", input_shape=(1, 28, 28), classes=10, taps=("stage4.0", "pool"), bottleneck="stage3")

    net = build(chosen, 0)

    assert (net.taps, net.bottleneck) == (("stage4.0", "pool"), "stage3")
    assert tap_width(net, 4) == 32 * 16 + 32
    with pytest.raises(ValueError, match="no layer 'stage9'"):
        build(Architecture(name="convnet", input_shape=(1, 8, 8), classes=2, taps=("stage9",)), 0)


def test_forms_that_no_net_has_are_refused() -> None:
    with pytest.raises(ValueError, match="no network is called"):
        build(Architecture(name="perceiver", input_shape=(3,), classes=2), 0)
    with pytest.raises(ValueError, match="takes images"):
        build(Architecture(name="convnet", input_shape=(3,), classes=2), 0)
    with pytest.raises(ValueError, match="at least 8 x 8"):
        build(Architecture(name="convnet", input_shape=(1, 7, 30), classes=2), 0)
    with pytest.raises(ValueError, match="activation"):
        Architecture(name="mlp", input_shape=(3,), classes=2, activation="gelu")
    with pytest.raises(ValueError, match="classes"):
        Architecture(name="mlp", input_shape=(3,), classes=1)
    with pytest.raises(ValueError, match="has 4 stages"):
        build(Architecture(name="convnet", input_shape=(1, 8, 8), classes=2, hidden=(3,)), 0)


@pytest.mark.parametrize(("grid", "width"), [(1, 96), (5, 96 * 25), (9, (16 + 16) * 81 + (32 + 32) * 64)])
def test_a_declared_grid_is_kept_whatever_the_number_of_features(grid: int, width: int) -> None:
    net = build(Architecture(name="convnet", input_shape=(1, 32, 32), classes=2, grid=grid), 0).eval()

    taps, _ = activations(net, torch.zeros(1, 1, 32, 32, dtype=torch.uint8))

    assert pooled_side(net) == grid
    assert taps.shape[1] == tap_width(net, grid) == width


def test_a_grid_that_no_tap_has_is_refused() -> None:
    with pytest.raises(ValueError, match="grid"):
        Architecture(name="convnet", input_shape=(1, 32, 32), classes=2, grid=17)


def test_wide_taps_are_pooled_to_the_next_smaller_grid() -> None:
    narrow = build(Architecture(name="convnet", input_shape=(1, 32, 32), classes=2), 0)
    wide = build(Architecture(name="convnet", input_shape=(1, 32, 32), classes=2, hidden=(64, 64, 64, 65)), 0)

    assert pooled_side(narrow) == 4
    assert pooled_side(wide) == 2
