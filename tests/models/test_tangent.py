"""J v and J^T u against finite differences, the adjoint identity and a Jacobian formed whole (METHODS S1)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from models.linear.tangent import Tangent, backward, forward, jacobian, linearise, normal, outputs, prepare, pulled, pushed
from models.nets import Architecture, Network, build

NETS = {
    "linear": (1, 8, 8),
    "mlp": (30,),
    "convnet": (1, 8, 8),
    "convnet7": (1, 8, 8),
    "resnet20": (3, 16, 16),
    "resnet18": (3, 16, 16),
    "mobilenet_v2": (3, 32, 32),
}


def network(name: str) -> Network:
    net = build(Architecture(name=name, input_shape=NETS[name], classes=4), 1).requires_grad_(False)
    generator = torch.Generator().manual_seed(7)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return net.eval()


def inputs(name: str, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    if len(NETS[name]) == 1:
        return torch.randn(count, *NETS[name], generator=generator)
    return torch.randint(0, 256, (count, *NETS[name]), dtype=torch.uint8, generator=generator)


def direction(tangent: Tangent, seed: int) -> Tensor:
    v = torch.randn(tangent.p, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return v / v.norm()


@pytest.mark.parametrize("name", NETS)
def test_the_two_products_are_adjoint_in_float32(name: str) -> None:
    tangent = linearise(network(name), None)
    rows = prepare(tangent, inputs(name, 7))
    v, u = direction(tangent, 3), torch.randn(7, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    pushed, pulled = forward(tangent, rows, v), backward(tangent, rows, u)

    assert abs(float((pushed * u).sum()) - float(v @ pulled)) <= 1e-5 * float(pushed.norm() * u.norm())


@pytest.mark.parametrize("name", NETS)
def test_the_quick_form_is_the_same_expansion_in_another_layout(name: str) -> None:
    tangent = linearise(network(name), None)
    rows, v = prepare(tangent, inputs(name, 7)), direction(tangent, 3)

    quick = tangent.quick(torch.device("cpu"))
    found, wanted = normal(quick, rows, v), normal(tangent.double(), rows.double(), v)

    assert float((found - wanted).norm()) <= 1e-5 * float(wanted.norm())
    assert (quick is tangent) == (name in ("linear", "mlp"))  # there is nothing to lay out anew
    assert not any(side_by_side(parameter) for parameter in tangent.net.parameters())
    assert any(side_by_side(parameter) for parameter in quick.net.parameters()) == (quick is not tangent)


def test_convolutions_of_one_pixel_keep_their_layout() -> None:
    net, here = network("mobilenet_v2"), torch.device("cpu")

    last, two = linearise(net, ("features.18", "classifier")), linearise(net, ("features.17", "classifier"))

    assert last.quick(here) is last and two.quick(here) is not two
    assert two.quick(torch.device("meta")).device.type == "meta"


def side_by_side(parameter: Tensor) -> bool:
    return parameter.dim() == 4 and min(parameter.shape[1:]) > 1 and parameter.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", NETS)
def test_both_products_in_one_pass_are_one_after_the_other(name: str) -> None:
    tangent = linearise(network(name), None).double()
    rows = prepare(linearise(network(name), None), inputs(name, 6)).double()
    v, missed = direction(tangent, 5), torch.randn(6, 4, generator=torch.Generator().manual_seed(6), dtype=torch.float64)

    moved = pushed(tangent, rows, v)

    assert torch.allclose(normal(tangent, rows, v), pulled(tangent, rows, moved), rtol=1e-10, atol=1e-12)
    assert torch.allclose(normal(tangent, rows, v, missed), pulled(tangent, rows, moved - missed), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", NETS)
def test_j_v_is_the_change_of_the_logits_to_first_order(name: str) -> None:
    tangent = linearise(network(name), None).double()
    rows = prepare(linearise(network(name), None), inputs(name, 5))
    v, step = direction(tangent, 5), 1e-6
    moved = {k: tangent.net.get_parameter(k) + step * d for k, d in tangent.named(v).items()}

    class Back(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = tangent.net

        def forward(self, x: Tensor) -> Tensor:
            return self.net.run(x, tangent.back)

    change = functional_call(Back(), {f"net.{k}": m for k, m in moved.items()}, (rows.double(),)) - outputs(tangent, rows)
    product = forward(tangent, rows, v)

    assert float((change - step * product).norm() / (step * product).norm()) <= 1e-4
    assert float((change - step * 1.01 * product).norm() / (step * product).norm()) > 5e-3  # a Jacobian 1 % off is caught


@pytest.mark.parametrize("name", ["mlp", "convnet", "resnet20"])
def test_rows_of_the_jacobian_give_both_products(name: str) -> None:
    tangent = linearise(network(name), None).double()
    rows = prepare(linearise(network(name), None), inputs(name, 3))
    v, u = direction(tangent, 6), torch.randn(3, 4, generator=torch.Generator().manual_seed(8), dtype=torch.float64)

    J = jacobian(tangent, rows)

    assert torch.allclose(forward(tangent, rows, v).reshape(-1), J @ v, rtol=1e-10, atol=1e-12)
    assert torch.allclose(backward(tangent, rows, u), J.T @ u.reshape(-1), rtol=1e-10, atol=1e-12)


def test_layers_named_give_the_columns_of_those_layers_and_the_rest_is_computed_once() -> None:
    net = network("convnet")
    whole, part = linearise(net, None).double(), linearise(net, ("stage4", "fc")).double()
    raw = inputs("convnet", 3)
    full, some = jacobian(whole, prepare(linearise(net, None), raw)), jacobian(part, prepare(linearise(net, ("stage4", "fc")), raw))

    assert part.front == ("input", "stage1", "stage2", "stage3")
    assert part.p == net.get_submodule("stage4")[0].weight.numel() + 32 + 4 * 32 + 4
    assert float((some - full[:, -part.p :]).norm() / some.norm()) <= 1e-6  # what stands before is computed in float32


def test_a_stage_within_a_sequence_is_a_part_too_and_a_layer_within_a_stage_begins_at_that_stage() -> None:
    net = network("mobilenet_v2")

    stage, layer = linearise(net, ("features.18", "classifier")), linearise(net, ("features.17.conv.2", "features.1"))

    assert stage.back == ("features.18", "pool", "classifier") and stage.front[-1] == "features.17"
    assert stage.p == 320 * 1280 + 2 * 1280 + 4 * 1280 + 4
    assert layer.front == ("input", "features.0")
    assert all(name.startswith(("features.17.conv.2.", "features.1.")) for name in layer.names)


def test_a_layer_that_the_network_lacks_is_named() -> None:
    with pytest.raises(ValueError, match="no layer 'stage9'"):
        linearise(network("convnet"), ("stage9",))


def test_a_network_in_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="eval mode"):
        linearise(network("resnet20").train(), None)
