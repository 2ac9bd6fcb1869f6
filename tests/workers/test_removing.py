"""Points are tried, kept and gone on with; recipes give the same network again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_args

import pytest
import torch

from models.data import Samples
from models.erase import irene, leace, lnl, quantized
from models.erase.attribute import Attributed
from models.nets import Adapter, Architecture, build
from models.train import Training, train
from service.removal import ERASE_OPTIONS, OWN, EraseMethod
from workers.failure import Failure
from workers.points import link_of, network_at, network_of, points_of, recipe_of

SETTINGS = {"irene": irene.Irene, "lnl": lnl.Lnl, "quantized": quantized.Quantized, "leace": leace.Leace}
SECRET = bytes(range(32))


class Noted:
    """Keeps every state that it is told."""

    def __init__(self) -> None:
        self.states: list[Mapping[str, torch.Tensor]] = []

    def epoch(self, number: int, state: Mapping[str, torch.Tensor]) -> bool:
        self.states.append(dict(state))
        return False


def rows(count: int = 200) -> Attributed:
    generator = torch.Generator().manual_seed(0)
    labels, values = torch.randint(0, 2, (count,), generator=generator), torch.randint(0, 2, (count,), generator=generator)
    inputs = torch.randn(count, 6, generator=generator)
    inputs[:, 0] += 2.0 * labels
    inputs[:, 1] += 2.0 * values
    return Attributed(Samples(inputs, labels, tuple(map(str, range(count)))), values)


def network(some: Attributed) -> Any:
    net = build(Architecture(name="mlp", input_shape=(6,), classes=2, hidden=(16, 8)), 0)
    train(net, some.samples, Training(epochs=3, augment=False))
    return net


@pytest.mark.parametrize("method", get_args(EraseMethod))
def test_the_options_of_a_method_are_its_settings_by_the_same_names(method: str) -> None:
    asked = set(ERASE_OPTIONS[method].model_fields) - set(OWN)

    assert asked == {field.name for field in fields(SETTINGS[method])}


@pytest.mark.parametrize("method", get_args(EraseMethod))
@pytest.mark.parametrize("scope", ["bottleneck", "network"])
def test_a_recipe_written_down_and_read_gives_the_same_network(method: str, scope: str) -> None:
    if (method, scope) == ("leace", "network"):
        pytest.skip("leace changes nothing before the bottleneck")
    some = rows()
    net = network(some)
    options = {} if method == "leace" else {"scope": scope, "epochs": 2}
    (recipe,) = points_of(method, options, rows=rows(), values=2, claim="any", erased_before=False)

    watch = Noted()
    first, second = (
        network_of(r, net, some, 2, secret=SECRET, watch=watch, resume=None, progress=lambda part, done: None).state_dict()
        for r in (recipe, recipe_of(recipe.document()))
    )

    assert all(torch.equal(first[name], second[name]) for name in first)
    assert recipe_of(recipe.document()) == recipe
    if watch.states:
        seen = network_at(recipe, net, watch.states[-1], secret=SECRET).state_dict()
        assert all(torch.equal(first[name], seen[name]) for name in first)


def test_keys_differ_by_link_and_an_earlier_links_key_stays() -> None:
    some = rows()
    few = {"scope": "bottleneck", "epochs": 1, "bits": 3}
    (recipe,) = points_of("quantized", few, rows=some, values=2, claim="any", erased_before=False)
    once = network_of(recipe, network(some), some, 2, secret=SECRET, watch=Noted(), resume=None, progress=lambda part, done: None)

    (second,) = points_of("leace", {"noise": 0.5}, rows=rows(), values=2, claim="any", erased_before=True)
    twice = network_of(second, once, some, 2, secret=bytes(32)[:31] + b"x", watch=Noted(), resume=None, progress=lambda part, done: None)

    before, after = once.state_dict(), twice.state_dict()
    assert [link.kind for link in twice.architecture.adapter.parts] == ["quantized", "affine", "noise"]
    assert torch.equal(before["adapter.0.key"], after["adapter.0.key"]) and bool(before["adapter.0.key"].any())
    assert not torch.equal(after["adapter.0.key"], after["adapter.2.key"])


def test_auto_tries_leace_alone_for_a_linear_claim_and_never_the_network_again_after_a_removal() -> None:
    linear = points_of("auto", {}, rows=rows(), values=2, claim="linear", erased_before=False)
    first = points_of("auto", {}, rows=rows(), values=2, claim="any", erased_before=False)
    later = points_of("auto", {}, rows=rows(), values=2, claim="any", erased_before=True)

    assert [recipe.method for recipe in linear] == ["leace"]
    assert (first[0].method, first[0].scope) == ("irene", "bottleneck") and "irene+leace" in {recipe.methods for recipe in first}
    assert "network" in {recipe.scope for recipe in first} and {recipe.scope for recipe in later} == {"bottleneck"}


def test_settings_that_do_not_go_together_fail_by_name() -> None:
    with pytest.raises(Failure, match="options"):
        points_of("irene", {"rate": 1e-3, "batch": 2, "heads": 0}, rows=rows(), values=2, claim="any", erased_before=False)


def test_the_adapter_of_a_method_is_the_one_that_it_leaves() -> None:
    some = rows()
    net = network(some)

    for method in get_args(EraseMethod):
        few = {} if method == "leace" else {"epochs": 1}
        (recipe, *_) = points_of(method, few, rows=some, values=2, claim="any", erased_before=False)
        made = network_of(recipe, net, some, 2, secret=SECRET, watch=Noted(), resume=None, progress=lambda part, done: None)
        assert made.architecture.adapter == link_of(recipe, 2), method
    assert link_of(recipe, 2) != Adapter(kind="identity")
