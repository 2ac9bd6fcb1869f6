"""What holds for every removal: both scopes, interruption, stopping, missing values, many values, and what of the network stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from attributed import MIXED, PICTURES, Keeper, mixed, pictures, same, trained

from models.erase import METHODS, irene, leace, lnl, quantized
from models.erase.attribute import Attributed, balance, label_information, shares
from models.erase.irene import Irene
from models.erase.keys import rekeyed, with_noise
from models.erase.lnl import Lnl
from models.erase.quantized import Quantized
from models.erase.scope import bottleneck_values
from models.nets import Adapter, Network
from models.progress import Stopped

SMALL = Irene(epochs=3, batch=40, rate=0.02, head_rate=0.05)
BUSY = Irene(
    epochs=4, batch=40, optimiser="adam", rate=1e-3, head_rate=2e-3, head="mlp", heads=2, head_steps=2, heads_first=True, anew=1,
    balanced=True, schedule="cosine", code=0,
)  # fmt: skip
PLATEAU = replace(SMALL, schedule="plateau", patience=1, epochs=5)
TRAINED: dict[str, tuple[Callable[..., Network], Any]] = {
    "irene": (irene.erase, SMALL),
    "irene, strong": (irene.erase, BUSY),
    "irene, plateau": (irene.erase, PLATEAU),
    "lnl": (lnl.erase, Lnl(epochs=3, batch=40)),
    "quantized": (quantized.erase, Quantized(epochs=3, batch=40, bits=4)),
}
METHOD = pytest.mark.parametrize("method", TRAINED)
SCOPE = pytest.mark.parametrize("scope", ["bottleneck", "network"])
KEY = bytes(range(1, 33))


@pytest.fixture(scope="module")
def rows() -> Attributed:
    return mixed(240)


@pytest.fixture(scope="module")
def net(rows: Attributed) -> Network:
    return trained(MIXED, rows)


@pytest.fixture(scope="module")
def seen() -> Attributed:
    return pictures(90)


@pytest.fixture(scope="module")
def deep(seen: Attributed) -> Network:
    return trained(PICTURES, seen, epochs=1)


@SCOPE
@METHOD
def test_a_run_interrupted_after_any_epoch_and_gone_on_with_gives_the_same_bits(
    method: str, scope: str, net: Network, rows: Attributed
) -> None:
    erase, how = TRAINED[method]
    keeper = Keeper()
    whole = erase(net, rows, 2, how, scope=scope, seed=5, watch=keeper)

    resumed = [erase(net, rows, 2, how, scope=scope, seed=5, resume=state) for state in keeper.states]

    assert len(keeper.states) > 1
    assert all(same(whole, again) for again in resumed)
    assert not same(whole, erase(net, rows, 2, how, scope=scope, seed=6))


@SCOPE
def test_a_run_interrupted_where_its_own_rule_ends_it_has_nothing_left_to_do(scope: str, net: Network, rows: Attributed) -> None:
    how = replace(PLATEAU, rate=0.5, alpha=0.0, weight_decay=0.0, epochs=60)  # a task that is not learnt: the rate is soon at its end
    keeper = Keeper()
    whole = irene.erase(net, rows, 2, how, scope=scope, seed=5, watch=keeper)  # type: ignore[arg-type]

    resumed = [irene.erase(net, rows, 2, how, scope=scope, seed=5, resume=state) for state in keeper.states[-2:]]  # type: ignore[arg-type]

    assert 1 < len(keeper.states) < how.epochs
    assert all(same(whole, again) for again in resumed)


@pytest.mark.parametrize("method", ["irene", "lnl", "quantized"])
def test_a_network_with_batch_normalisation_is_gone_on_with_to_the_bit_too(method: str, deep: Network, seen: Attributed) -> None:
    erase, how = TRAINED[method]
    keeper, how = Keeper(), replace(how, epochs=2)
    whole = erase(deep, seen, 2, how, scope="network", seed=5, watch=keeper)

    resumed = erase(deep, seen, 2, how, scope="network", seed=5, resume=keeper.states[0])

    assert same(whole, resumed)
    assert not torch.equal(whole.get_buffer("bn1.running_mean"), deep.get_buffer("bn1.running_mean"))


@METHOD
def test_at_the_bottleneck_everything_before_the_adapter_stays_as_it_was(method: str, deep: Network, seen: Attributed) -> None:
    erase, how = TRAINED[method]
    before = {name: value.clone() for name, value in deep.state_dict().items()}

    out = erase(deep, seen, 2, replace(how, epochs=1), scope="bottleneck", seed=0)

    after = out.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"linear.weight", "linear.bias"}
    assert all(torch.equal(value, deep.state_dict()[name]) for name, value in before.items())
    assert {name.split(".")[0] for name in after if name not in before} <= {"adapter"}
    assert out.taps == ("adapter",) and not out.training and not any(value.requires_grad for value in out.parameters())


@METHOD
def test_through_the_network_the_backbone_learns_too(method: str, net: Network, rows: Attributed) -> None:
    erase, how = TRAINED[method]

    out = erase(net, rows, 2, replace(how, epochs=1), scope="network", seed=0)

    assert all(not torch.equal(value, out.state_dict()[name]) for name, value in net.named_parameters())
    assert torch.equal(out.input.mean, net.input.mean)


@METHOD
def test_it_ends_after_the_epoch_in_which_the_watch_says_so(method: str, net: Network, rows: Attributed) -> None:
    erase, how = TRAINED[method]
    keeper = Keeper(end=2)

    out = erase(net, rows, 2, how, scope="bottleneck", seed=0, watch=keeper)

    held = {name[len("net.") :]: value for name, value in keeper.states[-1].items() if name.startswith("net.")}
    assert len(keeper.states) == 2
    assert all(torch.equal(value, held[name]) for name, value in out.state_dict().items())


@METHOD
def test_it_stops_within_a_batch(method: str, net: Network, rows: Attributed) -> None:
    erase, how = TRAINED[method]
    asked = []

    def stop() -> bool:
        asked.append(None)
        return len(asked) > 5

    keeper = Keeper()
    with pytest.raises(Stopped):
        erase(net, rows, 2, how, scope="bottleneck", seed=0, watch=keeper, stop=stop)
    assert not keeper.states and len(asked) == 6


@METHOD
def test_rows_without_a_value_teach_the_task_and_nothing_else(method: str, net: Network) -> None:
    erase, how = TRAINED[method]
    full = mixed(240)
    hidden = torch.rand(240, generator=torch.Generator().manual_seed(1)) < 0.3
    partly = Attributed(full.samples, torch.where(hidden, -1, full.values))
    moved = full.samples.labels.clone()
    moved[hidden] = (moved[hidden] + 1) % 3
    relabelled = Attributed(replace(full.samples, labels=moved), partly.values)

    out = erase(net, partly, 2, how, scope="bottleneck", seed=0)

    assert not same(out, erase(net, full, 2, how, scope="bottleneck", seed=0))
    assert not same(out, erase(net, relabelled, 2, how, scope="bottleneck", seed=0))
    assert all(bool(torch.isfinite(value).all()) for value in out.parameters())


@METHOD
def test_a_batch_in_which_no_value_is_known_is_no_trouble(method: str, net: Network) -> None:
    erase, how = TRAINED[method]
    full = mixed(240)
    few = torch.full((240,), -1)
    few[:3] = torch.tensor([0, 1, 0])

    out = erase(net, Attributed(full.samples, few), 2, how, scope="bottleneck", seed=0)

    assert all(bool(torch.isfinite(value).all()) for value in out.parameters())


@pytest.mark.parametrize("values", [3, 20])
@METHOD
def test_attributes_of_many_values_are_removed_too(method: str, values: int, net: Network) -> None:
    erase, how = TRAINED[method]

    out = erase(net, mixed(240, values=values), values, replace(how, epochs=1), scope="bottleneck", seed=0)

    assert all(bool(torch.isfinite(value).all()) for value in out.parameters())


@METHOD
def test_a_second_attribute_is_removed_behind_the_first_adapter(method: str, net: Network, rows: Attributed) -> None:
    erase, how = TRAINED[method]
    first = leace.erase(net, rows, 2, leace.Leace())

    second = erase(first, rows, 2, replace(how, epochs=1), scope="bottleneck", seed=0)

    assert second.architecture.adapter is not None
    assert second.architecture.adapter.parts[0].kind == "affine"
    assert torch.equal(second.state_dict()["adapter.0.weight"], first.state_dict()["adapter.0.weight"])
    assert "adapter.1.encode.weight" in second.state_dict() or "adapter.1.layers.0.weight" in second.state_dict()


def test_leace_may_follow_anything(net: Network, rows: Attributed) -> None:
    learned = irene.erase(net, rows, 2, SMALL, scope="bottleneck", seed=0)

    out = leace.erase(learned, rows, 2, leace.Leace())

    values = bottleneck_values(out, rows.samples.inputs, links=2).double()
    known = torch.nn.functional.one_hot(rows.values, 2).double()
    cross = (values - values.mean(0)).T @ (known - known.mean(0)) / len(values)
    assert float(cross.abs().max()) < 1e-6 * float(values.abs().max())
    assert out.architecture.adapter == Adapter(kind="chain", links=(Adapter(kind="mlp", hidden=(64,)), Adapter(kind="affine")))


def test_a_stochastic_network_serves_nothing_without_a_key_and_another_draw_with_another(net: Network, rows: Attributed) -> None:
    out = quantized.erase(net, rows, 2, Quantized(epochs=1, bits=4), scope="bottleneck", seed=0)
    inputs = rows.samples.inputs[:60]

    first, second = rekeyed(out, KEY), rekeyed(out, KEY[::-1])

    with pytest.raises(ValueError, match="no key"):
        out(inputs)
    assert torch.equal(first(inputs), rekeyed(out, KEY)(inputs))
    assert not torch.equal(first(inputs), second(inputs))
    for key in (bytes(32), KEY[:31]):
        with pytest.raises(ValueError, match="32 bytes"):
            rekeyed(out, key)


def test_noise_is_added_behind_whatever_is_there_and_has_the_size_it_says(net: Network, rows: Attributed) -> None:
    noisy = with_noise(leace.erase(net, rows, 2, leace.Leace()), 0.5, KEY)

    clean, drawn = (bottleneck_values(noisy, rows.samples.inputs, links=links) for links in (1, 2))

    assert abs(float((drawn - clean).std()) - 0.5) < 0.03
    assert abs(float((drawn - clean).mean())) < 0.03


def test_taps_before_the_bottleneck_are_dropped_and_later_ones_kept(rows: Attributed) -> None:
    named = trained(replace(MIXED, taps=("layer1", "layer2", "fc"), bottleneck="layer1"), rows, epochs=1)

    out = leace.erase(named, rows, 2, leace.Leace())

    assert out.taps == ("layer2", "fc")
    assert out.parts == ("input", "flatten", "layer1", "adapter", "layer2", "fc")


def test_what_cannot_be_removed_is_refused(net: Network, rows: Attributed) -> None:
    one = Attributed(rows.samples, torch.zeros(len(rows), dtype=torch.int64))

    for values, given, words in (
        (1, rows, "2 to 20"),
        (21, rows, "2 to 20"),
        (2, mixed(30, values=3), "outside the 2 values"),
        (2, one, "fewer than two values"),
    ):
        with pytest.raises(ValueError, match=words):
            leace.erase(net, given, values, leace.Leace())
    with pytest.raises(ValueError, match="scope is `bottleneck`"):
        leace.erase(net, rows, 2, leace.Leace(), scope="network")
    with pytest.raises(ValueError, match="-1 means missing"):
        Attributed(rows.samples, rows.values - 2)
    with pytest.raises(ValueError, match=r"values are \[240\] int64"):
        Attributed(rows.samples, rows.values.float())


def test_balance_gives_every_cell_the_same_weight_and_missing_values_none() -> None:
    rows = mixed(2000, agree=0.8)
    rows = Attributed(rows.samples, torch.where(torch.arange(2000) < 100, -1, rows.values))

    weights = balance(rows, 2)

    cells = [weights[(rows.samples.labels == y) & (rows.values == v)].sum() for y in range(3) for v in range(2)]
    assert not weights[:100].any()
    assert float(torch.stack(cells).std()) < 1e-3 * float(torch.stack(cells).mean())
    assert abs(float(weights[100:].mean()) - 1) < 1e-5


def test_information_between_label_and_attribute_is_that_of_the_counts() -> None:
    rows = mixed(6, values=2)
    samples = replace(rows.samples, labels=torch.tensor([0, 0, 1, 1, 2, 2]))

    told, nothing = (label_information(Attributed(samples, torch.tensor(v)), 2) for v in ([0, 0, 1, 1, 1, 1], [0, 1, 0, 1, 0, 1]))

    assert abs(told - (2 / 6 * torch.log(torch.tensor(3.0)) + 4 / 6 * torch.log(torch.tensor(1.5))).item()) < 1e-6
    assert nothing < 1e-12
    assert shares(Attributed(samples, torch.tensor([0, -1, 1, 1, 1, -1])), 2).tolist() == [0.25, 0.75]


def test_methods_are_the_modules_there_are() -> None:
    assert set(METHODS) == {"irene", "lnl", "quantized", "leace"}
