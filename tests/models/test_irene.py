"""IRENE: the information it minimises, who learns from what, and that its wrong variants would be seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from attributed import MIXED, PICTURES, Keeper, mixed, pictures, trained
from torch import Tensor, nn
from torch.nn import functional

from models.audit.probe import Held, probe
from models.data import Samples
from models.erase import irene
from models.erase.attribute import Attributed
from models.erase.heads import begin_anew, make, of_state
from models.erase.information import answered
from models.erase.irene import PAPER, PAPER_FACES, Irene, Treatment, strong
from models.erase.scope import admit, bottleneck_values, extended
from models.nets import Adapter, Architecture, Network

LN2 = 0.6931471805599453
LINEAR = Irene(epochs=2, batch=40, rate=0.02, head_rate=0.05)


@pytest.fixture(scope="module")
def rows() -> Attributed:
    return mixed(240, values=3)


@pytest.fixture(scope="module")
def net(rows: Attributed) -> Network:
    return trained(MIXED, rows)


def sure(values_of: Tensor, values: int) -> Tensor:
    return 60.0 * functional.one_hot(values_of, values).double()


@pytest.mark.parametrize("values", [2, 3, 20])
def test_information_is_one_where_a_uniform_value_is_told_and_zero_where_nothing_is(values: int) -> None:
    values_of = torch.arange(values).repeat(30)
    draw = torch.Generator().manual_seed(0)
    same_in_every_class = torch.randn(30, values, generator=draw, dtype=torch.float64).repeat_interleave(values, dim=0)

    told, constant, alike = (
        float(answered(scores, values_of))
        for scores in (
            sure(values_of, values),
            torch.randn(values, generator=draw).double().expand(len(values_of), -1),
            same_in_every_class,
        )
    )

    assert abs(told - 1) < 1e-12
    assert abs(constant) < 1e-12
    assert abs(alike) < 1e-12


def test_information_of_a_random_head_is_small_but_not_zero() -> None:
    draw = torch.Generator().manual_seed(0)
    values_of = torch.randint(0, 3, (3000,), generator=draw)

    found = [float(answered(sure(torch.randint(0, 3, (3000,), generator=draw), 3), values_of)) for _ in range(50)]

    expected = (3 - 1) ** 2 / (2 * 3000 * torch.log(torch.tensor(3.0)).item())
    assert 0.7 * expected < sum(found) / 50 < 1.4 * expected


def test_information_is_that_of_the_joint_table_weighted_or_not() -> None:
    draw = torch.Generator().manual_seed(1)
    scores, values_of = torch.randn(40, 2, generator=draw, dtype=torch.float64), torch.randint(0, 2, (40,), generator=draw)
    copies = torch.randint(1, 4, (40,), generator=draw)

    weighted = answered(scores, values_of, copies)
    repeated = answered(scores.repeat_interleave(copies, 0), values_of.repeat_interleave(copies, 0))

    table = torch.zeros(2, 2, dtype=torch.float64)
    for q, v in zip(scores.softmax(1), values_of, strict=True):
        table[v] += q / 40
    truth = sum(table[j, k] * torch.log2(table[j, k] / (table[j].sum() * table[:, k].sum())) for j in range(2) for k in range(2))
    assert abs(float(answered(scores, values_of)) - float(truth)) < 1e-12
    assert abs(float(weighted) - float(repeated)) < 1e-12


def test_information_has_the_gradient_of_its_difference_quotients() -> None:
    draw = torch.Generator().manual_seed(2)
    features = torch.randn(30, 5, generator=draw, dtype=torch.float64, requires_grad=True)
    head, values_of = torch.randn(5, 4, generator=draw, dtype=torch.float64), torch.randint(0, 4, (30,), generator=draw)

    (gradient,) = torch.autograd.grad(answered(features @ head, values_of), features)

    step = 1e-6
    for place in ((0, 0), (7, 3), (29, 4)):
        moved = features.detach().clone()
        moved[place] += step
        quotient = (answered(moved @ head, values_of) - answered(features @ head, values_of)).item() / step
        assert abs(quotient - gradient[place].item()) <= 1e-4 * float(gradient.abs().max())


def test_information_of_half_precision_scores_is_computed_in_single_precision() -> None:
    values_of = torch.arange(20).repeat(5)
    scores = 11 * functional.one_hot(values_of, 20).float()

    found = answered(scores.half(), values_of)

    assert found.dtype == torch.float32
    assert abs(float(found) - float(answered(scores, values_of))) < 1e-3


def treatment(net: Network, rows: Attributed, how: Irene, scope: str = "network") -> Treatment:
    link = Adapter(kind="identity") if scope == "network" else irene.adapter(how, 3)
    patient = admit(net, rows.samples.inputs, rows.samples.labels, link, scope=scope, seed=0)  # type: ignore[arg-type]
    return Treatment(net, patient, rows, 3, how, seed=0)


def routed(treatment: Treatment) -> dict[str, Tensor]:
    """The gradients that one minibatch leaves, by parameter."""
    numbers = torch.arange(60)
    treatment.gradients(numbers, treatment.patient.features(numbers))
    return gradients_of(treatment)


def gradients_of(treatment: Treatment) -> dict[str, Tensor]:
    both = (("net", treatment.patient.net), ("heads", treatment.heads))
    return {
        f"{side}.{name}": value.grad.clone() for side, module in both for name, value in module.named_parameters() if value.grad is not None
    }


def loss_and_private(treatment: Treatment) -> tuple[Tensor, Tensor, Tensor]:
    numbers = torch.arange(60)
    features = treatment.patient.features(numbers)
    task = functional.cross_entropy(treatment.patient.logits(features), treatment.patient.labels[numbers])
    return treatment.how.alpha * task, treatment.how.gamma * treatment.information(numbers, features), treatment.private(numbers, features)


def leaky(treatment: Treatment) -> dict[str, Tensor]:
    """Wrong: CE(v) reaches the backbone, through features that are not detached."""
    task, information, private = loss_and_private(treatment)
    (task + information).backward(retain_graph=True)
    treatment.heads.zero_grad()
    private.backward()
    return gradients_of(treatment)


def taught_by_information(treatment: Treatment) -> dict[str, Tensor]:
    """Wrong: the head keeps the information's gradient, and so learns to say nothing: the moving target."""
    numbers = torch.arange(60)
    features = treatment.patient.features(numbers)
    (treatment.loss(numbers, features) + treatment.private(numbers, features.detach())).backward()
    return gradients_of(treatment)


def reversed_gradient(treatment: Treatment) -> dict[str, Tensor]:
    """Wrong: another method's rule, the turned gradient of CE(v), in place of the information."""
    task, _, private = loss_and_private(treatment)
    (task - treatment.how.gamma * private).backward()
    return gradients_of(treatment)


def routing_faults(gradients: Callable[[Treatment], dict[str, Tensor]], make: Callable[[float, float], Treatment]) -> set[str]:
    """I2: what is wrong with who learns from what."""
    plain, strongly, silent = gradients(make(0.5, 0.0)), gradients(make(0.5, 100.0)), gradients(make(0.0, 0.0))
    faults = set()
    if any(not torch.allclose(plain[name], strongly[name], rtol=0, atol=1e-7) for name in plain if name.startswith("heads.")):
        faults.add("the head learns from the information")
    if any(bool(silent[name].any()) for name in silent if name.startswith("net.")):
        faults.add("the network sees the head's loss")
    if all(torch.equal(plain[name], strongly[name]) for name in plain if name.startswith("net.")):
        faults.add("the network does not see the information")
    return faults


@pytest.mark.parametrize("scope", ["network", "bottleneck"])
def test_the_head_learns_from_its_own_loss_alone_and_the_network_never_sees_it(net: Network, rows: Attributed, scope: str) -> None:
    def made(alpha: float, gamma: float) -> Treatment:
        return treatment(net, rows, replace(LINEAR, alpha=alpha, gamma=gamma), scope)

    assert routing_faults(routed, made) == set()
    assert "the network sees the head's loss" in routing_faults(leaky, made)
    assert "the head learns from the information" in routing_faults(taught_by_information, made)
    assert "the network sees the head's loss" in routing_faults(reversed_gradient, lambda a, g: made(a, g or 1.0))


def test_one_step_is_the_papers_in_the_papers_order(net: Network, rows: Attributed) -> None:
    """By hand: both losses of the same forward pass with the same head; both sides step afterwards."""
    ours, hand = treatment(net, rows, LINEAR), treatment(net, rows, LINEAR)
    task, information, _ = loss_and_private(hand)
    private = hand.private(torch.arange(60), hand.patient.features(torch.arange(60)).detach())
    sides = [list(hand.patient.learning()), list(hand.heads.parameters())]
    gradients = [torch.autograd.grad(loss, side) for loss, side in ((task + information, sides[0]), (private, sides[1]))]
    with torch.no_grad():
        for side, found in zip(sides, gradients, strict=True):
            for value, gradient in zip(side, found, strict=True):
                value -= (LINEAR.rate if side is sides[0] else LINEAR.head_rate) * (gradient + LINEAR.weight_decay * value)

    ours.step(torch.arange(60), 0.0)

    for (name, value), wanted in zip(ours.patient.net.named_parameters(), hand.patient.net.parameters(), strict=True):
        assert torch.allclose(value, wanted, atol=1e-7), name
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(ours.heads.parameters(), hand.heads.parameters(), strict=True))


def test_heads_first_means_that_the_network_meets_the_head_after_its_step(net: Network, rows: Attributed) -> None:
    first, later = (treatment(net, rows, replace(LINEAR, heads_first=flag, gamma=5.0)) for flag in (True, False))

    first.step(torch.arange(60), 0.0)
    later.step(torch.arange(60), 0.0)

    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(first.heads.parameters(), later.heads.parameters(), strict=True))
    assert not torch.allclose(
        first.patient.net.get_parameter("layer1.0.weight"), later.patient.net.get_parameter("layer1.0.weight"), atol=1e-7
    )


def test_extra_head_steps_move_the_statistics_of_batch_normalisation_no_further() -> None:
    seen = pictures(60)
    deep = trained(Architecture(name="resnet20", input_shape=(1, 8, 8), classes=3), seen, epochs=1)
    few, many = (treatment(deep, Attributed(seen.samples, seen.values), replace(LINEAR, head_steps=k, heads_first=True)) for k in (1, 4))

    for one in (few, many):
        one.step(torch.arange(40), 0.0)

    assert torch.equal(few.patient.net.get_buffer("bn1.running_mean"), many.patient.net.get_buffer("bn1.running_mean"))
    assert int(few.patient.net.get_buffer("bn1.num_batches_tracked")) == int(deep.get_buffer("bn1.num_batches_tracked")) + 1


def test_rates_fall_as_the_schedule_says_and_the_heads_never(net: Network, rows: Attributed) -> None:
    steps, waves = treatment(net, rows, LINEAR), treatment(net, rows, replace(LINEAR, schedule="cosine"))

    assert [round(steps.rate_at(f) / LINEAR.rate, 6) for f in (0.0, 0.49, 0.5, 0.74, 0.75, 1.0)] == [1, 1, 0.1, 0.1, 0.01, 0.01]
    assert waves.rate_at(0.0) == LINEAR.rate and waves.rate_at(1.0) == pytest.approx(0.02 * LINEAR.rate)
    steps.step(torch.arange(40), 0.9)
    assert steps.learning.optimisers["heads"].param_groups[0]["lr"] == LINEAR.head_rate


@pytest.mark.parametrize("scope", ["bottleneck", "network"])
def test_the_given_networks_answers_are_learnt_from_and_at_the_bottleneck_nothing_is_encoded_for_them(scope: Any) -> None:
    rows = pictures(90)
    net = trained(PICTURES, rows, epochs=1)
    patient = admit(net, rows.samples.inputs, rows.samples.labels, Adapter(kind="identity"), scope=scope, seed=0)
    encoded: list[int] = []
    net.input.register_forward_hook(lambda module, given, out: encoded.append(len(out)))

    found = irene.answers_of(net, patient, rows)

    assert bool(encoded) == (scope == "network")
    with torch.no_grad():
        assert torch.allclose(found, net(rows.samples.inputs).softmax(dim=1), atol=1e-6)


def test_a_plateau_lowers_the_rate_and_ends_below_a_thousandth(net: Network, rows: Attributed) -> None:
    keeper = Keeper()
    how = replace(LINEAR, schedule="plateau", patience=1, epochs=60, rate=0.5, weight_decay=0.0, alpha=0.0)  # a task that is not learnt

    irene.erase(net, rows, 3, how, scope="bottleneck", seed=0, watch=keeper)

    rates = [float(state["number.rate"]) for state in keeper.states]
    assert rates[0] == 0.5 and rates[-1] < 1e-3 and len(rates) < 60
    assert rates == sorted(rates, reverse=True)


def test_a_head_begun_anew_has_other_weights_and_no_momentum() -> None:
    generator = torch.Generator().manual_seed(0)
    heads = [make("mlp", 4, 2, generator) for _ in range(2)]
    optimiser = torch.optim.SGD([v for head in heads for v in head.parameters()], lr=0.1, momentum=0.9)
    torch.stack([head(torch.ones(3, 4)).square().sum() for head in heads]).sum().backward()
    optimiser.step()
    before = [head[0].weight.detach().clone() for head in heads]

    begin_anew(heads[0], optimiser, generator)

    assert not torch.equal(heads[0][0].weight, before[0]) and torch.equal(heads[1][0].weight, before[1])
    assert not any(value in optimiser.state for value in heads[0].parameters())
    assert all(value in optimiser.state for value in heads[1].parameters())


def test_the_papers_settings_are_there_by_name() -> None:
    assert (PAPER.alpha, PAPER.gamma, PAPER.head, PAPER.rate, PAPER.weight_decay, PAPER.batch, PAPER.optimiser) == (
        0.5,
        0.2,
        "linear",
        0.1,
        1e-4,
        100,
        "sgd",
    )
    assert (PAPER.heads, PAPER.head_steps, PAPER.heads_first, PAPER.anew, PAPER.balanced, PAPER.code) == (1, 1, False, 0, False, None)
    assert (PAPER_FACES.schedule, PAPER_FACES.patience) == ("plateau", 10)
    assert (strong(100).head, strong(100).heads_first, strong(100).balanced) == ("mlp", True, True)
    assert (strong(100).epochs, strong(16_000).epochs, strong(10**6).epochs) == (60, 16, 8)


def halves(net: Network, rows: Attributed) -> tuple[Held, Held]:
    """A network's bottleneck as the audit reads it: two disjoint halves of rows that it has not seen."""
    adapted = net if net.architecture.adapter is not None else extended(net, Adapter(kind="identity"), seed=0)
    values = bottleneck_values(adapted, rows.samples.inputs, links=len(adapted.links))
    half = len(rows) // 2
    return Held(values[:half], rows.values[:half], rows.samples.labels[:half]), Held(
        values[half:], rows.values[half:], rows.samples.labels[half:]
    )


def leakage(net: Network, rows: Attributed, readers: tuple[str, ...] = ("linear", "mlp", "trees")) -> float:
    """The largest V-information of fresh probes, in nats."""
    train, test = halves(net, rows)
    return probe(train, test, values=2, classes=3, seed=0, resamples=200, conditional=False, readers=readers).leakage


def own_figure(state: dict[str, Tensor], how: Irene, net: Network, rows: Attributed, values: int) -> float:
    train, _ = halves(net, rows)
    heads = of_state(state, how.head, train.features.shape[1], values)
    return max(float(answered(head(train.features), train.values)) for head in heads)


def accuracy(net: Network, rows: Attributed) -> float:
    return float((net(rows.samples.inputs).argmax(1) == rows.samples.labels).double().mean())


def test_the_strong_setting_removes_what_the_papers_head_leaves_while_its_own_figure_says_little() -> None:
    """The value is the exclusive or of two features' signs: no linear head sees much of it."""
    learn, held = crossed(900, seed=1), crossed(1000, seed=2)
    net = trained(Architecture(name="mlp", input_shape=(6,), classes=3, hidden=(32, 16)), learn, epochs=6)
    paper, hard = Irene(epochs=8, rate=0.02, head_rate=0.1), strong(900)
    keeper = Keeper()

    weak = irene.erase(net, learn, 2, paper, scope="bottleneck", seed=0, watch=keeper)
    removed = irene.erase(net, learn, 2, hard, scope="bottleneck", seed=0)

    before, after_weak, after = (leakage(one, held, ("mlp",)) for one in (net, weak, removed))
    own = own_figure(keeper.states[-1], paper, weak, held, 2) * LN2
    assert after_weak > 0.5 * before > 0.05
    assert own < 0.2 * after_weak
    assert after < 0.1 * before
    assert accuracy(removed, held) > accuracy(net, held) - 0.03


def crossed(rows: int, *, seed: int) -> Attributed:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (rows,), generator=draw)
    signs = torch.randint(0, 2, (rows, 2), generator=draw) * 2 - 1
    inputs = torch.cat([2.0 * torch.eye(3)[labels], signs.float(), torch.zeros(rows, 1)], dim=1) + 0.3 * torch.randn(
        rows, 6, generator=draw
    )
    return Attributed(Samples(inputs, labels, tuple(map(str, range(rows)))), (signs[:, 0] * signs[:, 1] > 0).long())


def test_a_removal_that_only_spoils_its_own_head_is_refused_by_the_audit(net: Network) -> None:
    """I5: the planted fake. Its own figure is perfect; the features are untouched."""
    held = mixed(1600, seed=7)
    fake = extended(net, Adapter(kind="identity"), seed=0)
    head = make("linear", fake.links.width, 2, torch.Generator())
    for layer in head:
        assert isinstance(layer, nn.Linear)
        nn.init.zeros_(layer.weight)

    found = leakage(fake, held)

    values = bottleneck_values(fake, held.samples.inputs, links=1)
    assert float(answered(head(values).detach(), held.values)) < 1e-6
    assert found > 0.2  # of .69: no budget worth the name allows it
