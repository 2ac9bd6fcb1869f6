"""Products computed elsewhere than on the processor: only rows and vectors go there, only results in float64 come back.

Tensors on the device "meta" have a place and no values: what mixes them with others fails.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from linearised import Linearised
from torch import Tensor

from models.linear import descent, quadratic, tangent, whole
from models.linear.descent import sgd
from models.linear.quadratic import Quadratic
from models.linear.tangent import Tangent, backward, forward, outputs, pulled, pushed

META = torch.device("meta")


@pytest.fixture
def came_home(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What came back, in order; zeros stand for it."""
    seen: list[Tensor] = []

    def zeros(values: Tensor) -> Tensor:
        seen.append(values)
        return torch.zeros(values.shape, dtype=torch.float64)

    for module in (tangent, quadratic, descent):
        monkeypatch.setattr(module, "home", zeros)
    return seen


def elsewhere(problem: Linearised) -> tuple[Tangent, Tangent]:
    return problem.core.tangent.double().on(META), problem.core.tangent.on(META)


def loss_of(problem: Linearised) -> Quadratic:
    loss, (exact, quick) = problem.loss(), elsewhere(problem)
    return Quadratic(exact, quick, loss.rows, loss.missed, loss.core, loss.ridge)


def test_the_same_place_is_no_copy_and_another_leaves_the_original_where_it_is(linearised: Linearised) -> None:
    here = linearised.core.tangent

    there = here.on(META)

    assert here.on(torch.device("cpu")) is here and here.device.type == "cpu"
    assert there.device == META and there.p == here.p and there.double().device == META


PRODUCTS: dict[str, Callable[[Tangent, Tensor, Tensor, Tensor], Tensor]] = {
    "outputs": lambda there, rows, v, u: outputs(there, rows),
    "forward": lambda there, rows, v, u: forward(there, rows, v),
    "backward": lambda there, rows, v, u: backward(there, rows, u),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_computed_there_and_only_the_results_come_home(linearised: Linearised, came_home: list[Tensor], name: str) -> None:
    rows, v = linearised.rows[:200], linearised.minimiser()
    u = torch.ones(200, 10, dtype=torch.float64)
    came_home.clear()

    for there in elsewhere(linearised):
        found = PRODUCTS[name](there, rows, v, u)

        assert found.device.type == "cpu" and found.dtype == torch.float64
        assert found.shape == ((len(v),) if name == "backward" else (200, 10))
    assert came_home and {each.device.type for each in came_home} == {"meta"}


def test_gradient_and_curvature_are_summed_there_in_float64(linearised: Linearised, came_home: list[Tensor]) -> None:
    loss, w = loss_of(linearised), linearised.minimiser()
    came_home.clear()  # of what the processor computed

    for start in (w, torch.zeros_like(w)):
        gradient, curved = loss.gradient(start), loss.curved(w)
        assert torch.equal(gradient, loss.ridge * start) and torch.equal(curved, loss.ridge * w)  # what is computed here

    assert {(each.device.type, each.dtype, len(each)) for each in came_home} == {("meta", torch.float64, len(w))}
    assert len(came_home) == 4  # once a pass


def test_the_paper_s_descent_steps_by_products_from_there(linearised: Linearised, came_home: list[Tensor]) -> None:
    loss, start = loss_of(linearised), linearised.minimiser()
    came_home.clear()

    found = sgd(loss, start, linearised.curvature, target=1e-9, most=3)

    assert found.w.device.type == "cpu" and {each.device.type for each in came_home} == {"meta"}


def test_one_batch_takes_vectors_from_anywhere_and_stays_there(linearised: Linearised) -> None:
    _, there = elsewhere(linearised)
    part: Any = linearised.rows[:5].to(META)

    moved = pushed(there, part, linearised.minimiser())

    assert (moved.device, moved.dtype) == (META, torch.float32)
    assert pulled(there, part, torch.ones(5, 10)).device == META


def test_a_loss_is_written_down_for_the_accelerator(
    linearised: Linearised, came_home: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole, "accelerator", lambda: META)

    loss = linearised.loss()

    assert (loss.tangent.device, loss.quick.device) == (META, META)
    assert (loss.tangent.dtype, loss.quick.dtype) == (torch.float64, torch.float32)
    assert {each.device.type for each in (loss.rows, loss.missed, loss.core)} == {"cpu"}
    assert {each.device.type for each in came_home} == {"meta"} and linearised.core.tangent.device.type == "cpu"
