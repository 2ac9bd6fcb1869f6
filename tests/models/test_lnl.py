"""Learning Not to Learn: two phases, each of which moves only what it should, and the sign of the reversed gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from attributed import MIXED, PICTURES, mixed, pictures, trained
from torch import Tensor
from torch.nn import functional

from models.erase.attribute import Attributed
from models.erase.lnl import Lnl, Reversal, Treatment, begin_as_identity
from models.erase.scope import admit
from models.nets import Adapter, Network

ROWS = torch.arange(60)
HOW = Lnl(rate=0.05)


@pytest.fixture(scope="module")
def rows() -> Attributed:
    return mixed(240, values=3)


@pytest.fixture(scope="module")
def net(rows: Attributed) -> Network:
    return trained(MIXED, rows)


def treatment(net: Network, rows: Attributed, how: Lnl = HOW) -> Treatment:
    patient = admit(net, rows.samples.inputs, rows.samples.labels, Adapter(kind="identity"), scope="network", seed=0)
    return Treatment(patient, rows, 3, how, seed=0)


def state(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def true_gradients(found: Treatment) -> dict[str, Tensor]:
    """dCE(v)/df, without any reversal."""
    loss = functional.cross_entropy(found.head(found.patient.features(ROWS)), found.values_of[ROWS])
    side = {name: value for name, value in found.patient.net.named_parameters() if not name.startswith("fc.")}
    return dict(zip(side, torch.autograd.grad(loss, list(side.values())), strict=True))


def turning_faults(found: Treatment, reverse: Callable[[Treatment], None]) -> float:
    """The largest difference of f's gradients from -0.1 dCE/df, relative to their size."""
    wanted = {name: -0.1 * gradient for name, gradient in true_gradients(found).items()}
    reverse(found)
    got = {name: value.grad for name, value in found.patient.net.named_parameters() if name in wanted}
    size = max(float(gradient.abs().max()) for gradient in wanted.values())
    return max(float((gradient - wanted[name]).abs().max()) for name, gradient in got.items() if gradient is not None) / size


def test_the_first_phase_leaves_the_bias_head_as_it_was_to_the_bit(net: Network, rows: Attributed) -> None:
    found = treatment(net, rows)
    before, body = state(found.head), state(found.patient.net)

    for _ in range(3):
        found.unsure(ROWS)
        found.take("features", "task")

    assert all(torch.equal(value, before[name]) for name, value in found.head.state_dict().items())
    assert any(not torch.equal(value, body[name]) for name, value in found.patient.net.state_dict().items())


def test_the_second_phase_turns_the_gradient_of_the_features_and_leaves_the_task_alone(net: Network, rows: Attributed) -> None:
    found = treatment(net, rows)
    before = state(found.patient.net.get_submodule("fc"))

    fault = turning_faults(found, lambda t: t.reverse(ROWS))
    wanted = torch.autograd.grad(
        functional.cross_entropy(found.head(found.patient.features(ROWS)), found.values_of[ROWS]), list(found.head.parameters())
    )
    given = [value.grad for value in found.head.parameters()]
    found.take("features", "heads")

    assert fault <= 1e-6
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(given, wanted, strict=True) if a is not None)
    assert all(torch.equal(value, before[name]) for name, value in found.patient.net.get_submodule("fc").state_dict().items())


def test_a_gradient_that_is_not_turned_or_turned_twice_as_far_would_be_seen(net: Network, rows: Attributed) -> None:
    def wrong(factor: float) -> Callable[[Treatment], None]:
        def reverse(found: Treatment) -> None:
            found.clear()
            turned: Tensor = Reversal.apply(found.patient.features(ROWS), factor)
            functional.cross_entropy(found.head(turned), found.values_of[ROWS]).backward()

        return reverse

    assert turning_faults(treatment(net, rows), wrong(-0.1)) > 1.5
    assert turning_faults(treatment(net, rows), wrong(0.2)) > 0.5
    assert turning_faults(treatment(net, rows), wrong(0.1)) <= 1e-6


def test_the_uncertainty_is_the_negative_entropy_where_values_are_equally_common(net: Network) -> None:
    """KL(q || p_v) = sum q log q + ln K for uniform p_v: the same gradients; and it is least at q = p_v where they are not."""
    labels = mixed(240, values=3)
    even = Attributed(labels.samples, torch.arange(240) % 3)
    found = treatment(net, even, Lnl(weight=2.0))

    found.unsure(ROWS)
    got = found.patient.net.get_parameter("layer1.0.weight").grad
    features = found.patient.features(ROWS)
    answers = found.head(features).log_softmax(1)
    loss = (
        functional.cross_entropy(found.patient.logits(features), found.patient.labels[ROWS]) + 2.0 * (answers.exp() * answers).sum(1).mean()
    )
    (wanted,) = torch.autograd.grad(loss, [found.patient.net.get_parameter("layer1.0.weight")])

    assert got is not None and torch.allclose(got, wanted, atol=1e-6)


def test_with_uncommon_values_the_head_is_led_to_their_shares_and_not_to_even_ones(net: Network) -> None:
    full = mixed(240, values=2)
    rare = Attributed(full.samples, (torch.arange(240) % 10 == 0).long())
    patient = admit(net, rare.samples.inputs, rare.samples.labels, Adapter(kind="identity"), scope="network", seed=0)
    found = Treatment(patient, rare, 2, Lnl(weight=1.0), seed=0)
    last = found.head[-1]
    assert isinstance(last, torch.nn.Linear)
    faint = 1e-3 * last.weight.detach()

    def pull(answer: float) -> float:
        """The size of what the uncertainty adds to the network's gradient while the head answers this share throughout."""
        with torch.no_grad():
            last.weight.copy_(faint)
            last.bias.copy_(torch.tensor([1 - answer, answer]).log())
        gradients = []
        for weight in (1.0, 0.0):
            one = Treatment(patient, rare, 2, Lnl(weight=weight), seed=0)
            one.head.load_state_dict(found.head.state_dict())
            one.unsure(ROWS)
            gradients.append(patient.net.get_parameter("layer2.0.weight").grad.clone())
        return float((gradients[0] - gradients[1]).norm())

    assert pull(0.1) < 0.05 * pull(0.5)


def test_the_adapter_begins_as_the_identity(net: Network, rows: Attributed) -> None:
    link = Adapter(kind="mlp", hidden=(16,), skip=True)
    patient = admit(net, rows.samples.inputs, rows.samples.labels, link, scope="bottleneck", seed=0)

    begin_as_identity(patient)

    assert torch.equal(patient.net.eval()(rows.samples.inputs), net(rows.samples.inputs))


def test_both_phases_run_the_features_afresh_and_so_move_batch_normalisation_twice() -> None:
    seen = pictures(60)
    deep = trained(PICTURES, seen, epochs=1)
    patient = admit(deep, seen.samples.inputs, seen.samples.labels, Adapter(kind="identity"), scope="network", seed=0)
    found = Treatment(patient, seen, 2, HOW, seed=0)

    found.step(ROWS[:30], 0.0)

    assert int(patient.net.get_buffer("bn1.num_batches_tracked")) == int(deep.get_buffer("bn1.num_batches_tracked")) + 2
