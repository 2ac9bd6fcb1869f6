"""The gradient of a linearised model's loss, in parts: the bits of one process, whatever the order of the parts and whoever had them."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from service.blobs import BlobError, Vault
from tests.digits import Digits
from tests.workers.test_parts import decoded, groups, silent, vault
from workers.artifacts import Shelf, index_of, pack_table
from workers.plan import continued
from workers.slopes import PHASE
from workers.steps import STEPS

__all__ = ["vault"]
SPEC = {
    "architecture": {"name": "convnet", "activation": "leaky_relu", "bottleneck": None, "taps": None, "hidden": [4, 4, 4, 4]},
    "core": "train",
    "training": {"epochs": 1},
    "classes": None,
    "target": 5.0,
    "ridge": 30.0,
    "expected_rows": 1000,
    "range": None,
    "linearize": "all",
    "release": {"mu_max": 0.2, "sigma": 0.05, "noise": "core curvature", "rank": 32},
}
ROWS = 150
SAME = ("reached", "target", "error", "residual", "passes", "history")


@pytest.fixture
def plan(vault: Vault, data: Digits) -> dict[str, Any]:
    """Of forgetting three user rows with cg, in a model of digits in blocks of 150 rows."""
    table, shelf = decoded(data).slice(0, 5 * ROWS + 20), Shelf(vault, "data-1-")
    tables = [table.slice(n * ROWS, ROWS) for n in range(-(-len(table) // ROWS))]
    blocks = [[n, shelf.put(pack_table(part)).blob_id] for n, part in enumerate(tables)]
    index = shelf.put(pack_table(index_of(tables))).blob_id
    common = {"spec": SPEC, "dataset": {"blocks": blocks, "index": index, "shape": [1, 8, 8], "text_labels": False}}
    fitted = STEPS["fit"](common | {"kind": "fit", "prefix": "fit-1-", "given_core": None}, Shelf(vault, "fit-1-"), silent())
    asked = {"kind": "samples", "ids": data.of(role="user")[:3], "seed": "00" * 32}
    return common | {
        "kind": "forget",
        "prefix": "one-1-",
        "method": "cg",
        "model_id": "m",
        "parent": 1,
        "spec": fitted["spec"],
        "files": fitted["files"],
        "state": fitted["state"],
        "blocks": [],
        "others": [],
        "requests": [{"id": "r", "body": shelf.put(json.dumps(asked).encode()).blob_id}],
        "secret": "00" * 32,
        "tombstones": [],
    }


def carry_out(plan: dict[str, Any], vault: Vault, order: random.Random) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Forget in parts, done in a random order, one of them twice. Returns also each time it split."""
    said, splits = STEPS["forget"](plan, Shelf(vault, plan["prefix"]), silent()), []
    while "split" in said:
        splits.append(said["split"])
        tasks = list(enumerate(said["split"]["tasks"]))
        order.shuffle(tasks)
        results = {}
        for attempt, (number, task) in enumerate([*tasks, tasks[0]]):
            part = {"kind": "block", "spec": plan["spec"], "dataset": {"shape": plan["dataset"]["shape"]}} | task
            shelf = Shelf(vault, f"{plan['prefix']}b{len(splits)}{number}-{attempt}-")
            results[number] = STEPS["block"](part, shelf, silent())["result"]
        plan = continued(plan, said, [results[n] for n in range(len(tasks))], 1.0)
        said = STEPS["forget"](plan, Shelf(vault, plan["prefix"]), silent())
    return said, splits


def test_parts_in_any_order_give_the_residual_that_one_process_gives(plan: dict[str, Any], vault: Vault, data: Digits) -> None:
    one = STEPS["forget"](plan, Shelf(vault, plan["prefix"]), silent())

    runs = [carry_out(groups(plan, size), vault, random.Random(size)) for size in (1, 3)]

    assert one["solver"]["reached"] and one["solver"]["passes"] >= 3 and one["solver"]["residual"] > 0
    for wide, splits in runs:
        assert {k: wide["solver"][k] for k in SAME} == {k: one["solver"][k] for k in SAME}
        assert wide["solver"]["shared"] and not one["solver"]["shared"]
        assert splits and {s["phase"] for s in splits} == {PHASE}
        assert wide["seconds"][PHASE] == len(splits)
        assert not any(sample in str(splits) for sample in data.ids)
        (proved,), (same) = wide["facts"]["guarantees"], one["facts"]["guarantees"][0]
        assert {**proved["value"], "weights": ""} == {**same["value"], "weights": ""}
        for split in splits:  # the point before its noise
            with pytest.raises(BlobError):
                vault.read(split["base"]["at"])


def test_a_target_that_takes_restarts_is_judged_in_parts_more_than_once(plan: dict[str, Any], vault: Vault, data: Digits) -> None:
    asked = {"kind": "samples", "ids": data.of(role="user")[:3], "seed": "00" * 32, "guarantee": {"nats": 1e-14}}
    plan = plan | {"requests": [{"id": "r", "body": Shelf(vault, "body-2-").put(json.dumps(asked).encode()).blob_id}]}

    one = STEPS["forget"](plan, Shelf(vault, plan["prefix"]), silent())
    wide, splits = carry_out(groups(plan, 2), vault, random.Random(1))

    assert len(splits) >= 2 and one["solver"]["reached"]
    assert {k: wide["solver"][k] for k in SAME} == {k: one["solver"][k] for k in SAME}
    assert [split["base"]["runs"] for split in splits] == list(range(1, len(splits) + 1))


def test_a_target_that_is_not_met_is_refused_with_the_same_best(plan: dict[str, Any], vault: Vault, data: Digits) -> None:
    asked = {"kind": "samples", "ids": data.of(role="user")[:3], "seed": "00" * 32}
    strict = asked | {"options": {"most_passes": 4}, "guarantee": {"nats": 1e-12}}
    plan = plan | {"requests": [{"id": "r", "body": Shelf(vault, "body-1-").put(json.dumps(strict).encode()).blob_id}]}

    one = STEPS["forget"](plan, Shelf(vault, plan["prefix"]), silent())
    wide, _ = carry_out(groups(plan, 2), vault, random.Random(1))

    assert one["refusal"]["code"] == "guarantee_not_met"
    assert wide["refusal"] == one["refusal"]
