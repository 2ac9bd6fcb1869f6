"""Rows whose attribute is exchanged: the label stays in the inputs, the value no longer goes with it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from attributed import Keeper, mixed, same, trained
from torch import Tensor

from benchmarks.biased import COLOURS, Biased, digits
from models.erase import irene
from models.erase.attribute import Attributed, label_information
from models.erase.exchange import contrary, effects, exchanged
from models.nets import Architecture, Network


@pytest.fixture(scope="module")
def data() -> Biased:
    return digits(0.99, copies=4)


def small() -> irene.Irene:
    return replace(irene.relearning(300), relearn=1, epochs=3)


def test_an_effect_is_what_a_value_adds_where_the_label_is_the_same() -> None:
    labels = torch.arange(3).repeat_interleave(100)
    values = torch.where(torch.rand(300, generator=torch.Generator().manual_seed(0)) < 0.9, labels % 2, 1 - labels % 2)
    added = torch.tensor([[0.0, 1.0], [5.0, -2.0]])
    inputs = 10.0 * labels[:, None] + added[values]
    rows = Attributed(replace(mixed(300).samples, inputs=inputs, labels=labels), values)

    found = effects(rows, 2)

    assert torch.allclose(found[1] - found[0], added[1] - added[0], atol=1e-2)


def test_contrary_rows_are_those_without_their_labels_usual_value(data: Biased) -> None:
    found = contrary(data.core, 10)

    assert torch.equal(found, (data.core.values != data.core.samples.labels).nonzero().flatten())
    assert len(found) == 36


def test_after_the_exchange_the_value_says_little_of_the_label_and_backgrounds_have_their_new_colour(data: Biased) -> None:
    found = exchanged(data.core, 10, seed=0)

    palette = torch.tensor([rgb for _, rgb in COLOURS]).float()
    corners = found.samples.inputs[:, :, 0, 0].float()
    assert label_information(data.core, 10) > 2.0 > 0.1 > label_information(found, 10)
    assert float((torch.cdist(corners, palette).argmin(1) == found.values).double().mean()) > 0.6  # by chance .1
    assert found.samples.inputs.dtype == torch.uint8 and len(found) > len(data.core)
    assert torch.equal(found.samples.labels[-len(data.core) :], data.core.samples.labels)


def test_rows_without_a_value_and_the_range_of_features_stay() -> None:
    told = mixed(300, values=3, agree=0.98)
    rows = Attributed(told.samples, torch.where(torch.arange(300) < 20, -1, told.values))

    found = exchanged(rows, 3, seed=0)

    known = rows.known.samples.inputs
    assert torch.equal(found.samples.inputs[-20:], told.samples.inputs[:20]) and found.values[-20:].tolist() == [-1] * 20
    assert bool((found.samples.inputs[:-20] <= known.amax(0)).all() and (found.samples.inputs[:-20] >= known.amin(0)).all())
    assert not torch.equal(found.samples.inputs, exchanged(rows, 3, seed=1).samples.inputs)


@pytest.fixture(scope="module")
def net() -> Network:
    return trained(Architecture(name="mlp", input_shape=(10,), classes=3, hidden=(24, 12)), mixed(300, values=3, agree=0.98))


def test_a_task_learnt_again_goes_on_where_it_was_interrupted(net: Network) -> None:
    rows, first, last = mixed(300, values=3, agree=0.98), Keeper(end=1), Keeper()

    whole = irene.erase(net, rows, 3, small(), scope="network", seed=0, watch=last)
    irene.erase(net, rows, 3, small(), scope="network", seed=0, watch=first)
    again = irene.erase(net, rows, 3, small(), scope="network", seed=0, resume=first.states[0])

    state: dict[str, Tensor] = whole.state_dict()
    assert len(last.states) == 3 and same(whole, again)
    assert whole.architecture.adapter == irene.adapter(small(), 3, "network")
    assert any(not torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_it_is_refused_where_the_network_must_stay(net: Network) -> None:
    rows = mixed(300, values=3, agree=0.98)
    erased = irene.erase(net, rows, 3, irene.Irene(epochs=1), scope="bottleneck", seed=0)

    with pytest.raises(ValueError, match="not at the bottleneck"):
        irene.erase(net, rows, 3, small(), scope="bottleneck", seed=0)
    with pytest.raises(ValueError, match="earlier removal"):
        irene.erase(erased, rows, 3, small(), scope="network", seed=0)
    with pytest.raises(ValueError, match="relearn"):
        replace(small(), taught=1.0)
