"""A linearised model's loss over rows that are read block by block: the loss over rows in memory, with a few blocks in memory at a time."""

from __future__ import annotations

import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.linear.quadratic import Quadratic
from models.linear.tangent import linearise, prepare
from models.linear.whole import WholeCore, quadratic
from models.nets import Architecture, build
from service.blobs import Vault, directory_vault
from tests.digits import Digits
from tests.workers.test_parts import decoded
from workers import stored
from workers.artifacts import Shelf, pack_table
from workers.linearised import held_rows, samples
from workers.stored import stored_loss

ROWS = 100
ROW_BYTES = 64 * 4  # an 8 x 8 digit in float32
CLASSES = list(range(10))


class Seen:
    """Counts which blobs are read, and how many prepared blocks are alive at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read, self.alive, self.most = Counter[str](), list["weakref.ref[Tensor]"](), 0
        read = Vault.read

        def counted(vault: Vault, blob: str) -> bytes:
            self.read[blob] += 1
            return read(vault, blob)

        def prepared(*args: Any, **named: Any) -> Tensor:
            rows = prepare(*args, **named)
            self.alive.append(weakref.ref(rows))
            self.most = max(self.most, sum(one() is not None for one in self.alive))
            return rows

        monkeypatch.setattr(Vault, "read", counted)
        monkeypatch.setattr(stored, "prepare", prepared)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(directory_vault(tmp_path / "blobs", tmp_path / "keys"), "data-1-")


@pytest.fixture
def plan(shelf: Shelf, data: Digits) -> dict[str, Any]:
    """Of a model on digits in 18 blocks."""
    table = decoded(data)
    blocks = [[n, shelf.put(pack_table(table.slice(n * ROWS, ROWS))).blob_id] for n in range(-(-len(table) // ROWS))]
    return {"dataset": {"blocks": blocks, "shape": [1, 8, 8]}}


@pytest.fixture(scope="module")
def core() -> WholeCore:
    torch.set_num_threads(1)
    net = build(Architecture(name="convnet", input_shape=(1, 8, 8), classes=10, hidden=(4, 4, 4, 4)), 0).eval().requires_grad_(False)
    tangent = linearise(net, None)
    w = 0.1 * torch.randn(tangent.p, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return WholeCore(tangent, 0.5, 3.0, 5.0, w, 0.1)


@pytest.fixture(scope="module")
def kept(data: Digits) -> set[str]:
    """All but every fifth sample, and of those in the first two blocks none."""
    return {name for number, name in enumerate(data.ids) if number % 5 and number >= 2 * ROWS}


def in_memory(plan: dict[str, Any], shelf: Shelf, core: WholeCore, kept: set[str]) -> Quadratic:
    rows = held_rows(plan, shelf, kept)
    user, under = (samples(table, plan, CLASSES) for table in (rows.user, rows.core))
    return quadratic(core, prepare(core.tangent, user.inputs), user.labels, prepare(core.tangent, under.inputs))


def test_rows_read_block_by_block_make_the_loss_of_rows_in_memory(
    plan: dict[str, Any], shelf: Shelf, core: WholeCore, kept: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "KEPT", 0)
    seen = Seen(monkeypatch)
    loss, truth = stored_loss(plan, shelf, core, CLASSES, kept), in_memory(plan, shelf, core, kept)
    assert len(seen.alive) == 4  # the two blocks without rows, for both roles: what cannot stay is not prepared
    w = torch.randn(core.tangent.p, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    assert loss.counts == truth.counts and min(truth.counts) > 100
    assert torch.allclose(loss.aims, truth.aims, rtol=1e-12, atol=1e-12) and len(loss.cuts) == 18 and loss.cuts[:2] == ((0, 0), (0, 0))
    for found, wanted, close in (
        (loss.gradient(w), truth.gradient(w), 1e-12),
        (loss.rough(w), truth.gradient(w), 1e-5),
        (loss.curved(w), truth.curved(w), 1e-5),
        (loss.missed, truth.missed, 1e-12),
    ):
        assert float((found - wanted).norm() / wanted.norm()) <= close
    assert loss.loss(w) == pytest.approx(truth.loss(w), rel=1e-12)


def test_where_nothing_fits_each_pass_reads_every_block_and_holds_a_few(
    plan: dict[str, Any], shelf: Shelf, core: WholeCore, kept: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "KEPT", 0)
    loss = stored_loss(plan, shelf, core, CLASSES, kept)
    seen, w = Seen(monkeypatch), torch.ones(core.tangent.p, dtype=torch.float64)

    loss.gradient(w)
    loss.curved(w)

    assert set(seen.read.values()) == {4} and len(seen.read) == 16  # a pass reads a block for its user rows and for its core rows
    assert len(seen.alive) == 64 and seen.most <= 6


def test_rows_stay_in_memory_while_there_is_room(
    plan: dict[str, Any], shelf: Shelf, core: WholeCore, kept: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = stored_loss(plan, shelf, core, CLASSES, kept)
    monkeypatch.setattr(stored, "KEPT", ROW_BYTES * sum(user for user, _ in whole.cuts[:12]))
    half = stored_loss(plan, shelf, core, CLASSES, kept)
    seen, w = Seen(monkeypatch), torch.ones(core.tangent.p, dtype=torch.float64)

    first, none = whole.curved(w), sum(seen.read.values())
    again = half.curved(w)

    assert none == 0
    assert torch.equal(first, again)
    user = [blob for _, blob in plan["dataset"]["blocks"]][12:]
    assert set(seen.read) == set(user) and set(seen.read.values()) == {1}


def test_a_data_set_without_user_rows_has_a_loss_of_core_rows_alone(
    plan: dict[str, Any], shelf: Shelf, core: WholeCore, data: Digits
) -> None:
    held = {name for name, role in zip(data.ids, data.roles, strict=True) if role == "core"}
    w = torch.ones(core.tangent.p, dtype=torch.float64)

    loss, truth = stored_loss(plan, shelf, core, CLASSES, held), in_memory(plan, shelf, core, held)

    assert loss.counts == truth.counts == (0, len(held))
    assert torch.allclose(loss.gradient(w), truth.gradient(w), rtol=1e-12) and float((loss.gradient(w) - core.ridge * w).norm()) > 1
