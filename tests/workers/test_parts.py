"""A fit in parts gives the bits of a fit in one piece, whatever the order of the parts and whoever carried them out."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from service.blobs import Vault, directory_vault
from tests.digits import Digits
from workers.artifacts import Shelf, pack_table, unpack_table
from workers.plan import continued
from workers.report import Report
from workers.steps import STEPS
from workers.steps.fit import fit_rows

SPEC = {
    "architecture": {"name": "linear", "activation": "leaky_relu", "bottleneck": None, "taps": None, "hidden": None},
    "core": "train",
    "training": {"epochs": 1},
    "classes": None,
    "target": 5.0,
    "ridge": 10.0,
    "expected_rows": 1000,
    "range": None,
}
ROWS = 100


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return directory_vault(tmp_path / "blobs", tmp_path / "keys")


@pytest.fixture
def plan(vault: Vault, data: Digits) -> dict[str, Any]:
    """Of a fit on digits in blocks of 100 rows."""
    table = decoded(data)
    shelf = Shelf(vault, "data-1-")
    blocks = [[n, shelf.put(pack_table(table.slice(n * ROWS, ROWS))).blob_id] for n in range(-(-len(table) // ROWS))]
    return {"kind": "fit", "prefix": "fit-1-", "spec": SPEC, "given_core": None, "dataset": {"blocks": blocks, "shape": [1, 8, 8]}}


def decoded(data: Digits) -> Any:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    from service.parquet import inspect
    from workers.ingest import blocks

    file = io.BytesIO()
    pq.write_table(data.table(), file)
    layout = inspect(file, max_rows=10_000, max_expansion=1000)  # type: ignore[arg-type]
    file.seek(0)
    return pa.concat_tables(blocks(file, layout))  # type: ignore[arg-type]


def carry_out(plan: dict[str, Any], vault: Vault, order: random.Random) -> dict[str, Any]:
    """Fit in parts, done in a random order, one of them twice."""
    first = STEPS["fit"](plan, Shelf(vault, plan["prefix"]), silent())
    tasks = list(enumerate(first["split"]["tasks"]))
    order.shuffle(tasks)
    results = {}
    for attempt, (number, task) in enumerate([*tasks, tasks[0]]):
        part = {"kind": "block", "spec": plan["spec"], "dataset": {"shape": plan["dataset"]["shape"]}} | task
        results[number] = STEPS["block"](part, Shelf(vault, f"{plan['prefix']}b{number}-{attempt}-"), silent())["result"]
    rest = continued(plan, first, [results[n] for n in range(len(tasks))], 1.0)
    return STEPS["fit"](rest, Shelf(vault, rest["prefix"]), silent())


def silent() -> Report:
    return Report(lambda phase, progress: None)


def groups(plan: dict[str, Any], size: int) -> dict[str, Any]:
    blocks = plan["dataset"]["blocks"]
    return plan | {"groups": [blocks[i : i + size] for i in range(0, len(blocks), size)], "prefix": f"wide{size}-1-"}


@pytest.mark.parametrize("size", [1, 5])
def test_parts_in_any_order_give_the_very_files_that_one_process_gives(plan: dict[str, Any], vault: Vault, size: int) -> None:
    one = STEPS["fit"](plan, Shelf(vault, plan["prefix"]), silent())

    wide = carry_out(groups(plan, size), vault, random.Random(size))

    assert {n: f["sha256"] for n, f in wide["files"].items()} == {n: f["sha256"] for n, f in one["files"].items()}
    assert (wide["facts"], wide["utility"], wide["spec"]) == (one["facts"], one["utility"], one["spec"])
    assert [(b["number"], b["rows"], vault.read(b["blob"])) for b in wide["blocks"]] == [
        (b["number"], b["rows"], vault.read(b["blob"])) for b in one["blocks"]
    ]
    assert set(wide["state"]) == set(one["state"])
    for name in ("statistics", "core_statistics", "audit"):
        assert vault.read(wide["state"][name]) == vault.read(one["state"][name])
    names = [sorted(unpack_table(vault.read(o["state"]["index"])).to_pylist(), key=lambda row: row["sample_id"]) for o in (wide, one)]
    assert names[0] == names[1]
    assert wide["seconds"].keys() == one["seconds"].keys()


def test_rows_that_are_left_out_are_in_no_part(plan: dict[str, Any], vault: Vault, data: Digits) -> None:
    gone = {*data.of(role="user")[:40], *data.of(role="core")[:3], *data.of(role="audit")[:5]}
    keep = set(data.ids) - gone

    one = fit_rows(plan, Shelf(vault, "one-1-"), silent(), keep=keep, given=None)
    wide = groups(plan, 4)
    split = fit_rows(wide, Shelf(vault, "wide-1-"), silent(), keep=keep, given=None)
    results = [
        STEPS["block"]({"spec": SPEC, "dataset": {"shape": [1, 8, 8]}} | task, Shelf(vault, f"wide-1-b{n}-1-"), silent())["result"]
        for n, task in enumerate(split.tasks)  # type: ignore[union-attr]
    ]
    rest = continued(wide, split.outcome(silent()), results, 1.0)  # type: ignore[union-attr]
    both = fit_rows(rest, Shelf(vault, rest["prefix"]), silent(), keep=keep, given=None)

    assert (both.statistics.A == one.statistics.A).all() and (both.weights == one.weights).all()  # type: ignore[union-attr]
    assert set(both.index["sample_id"].to_pylist()) == keep  # type: ignore[union-attr]
    assert not any(name in str(split.outcome(silent())) for name in gone)  # type: ignore[union-attr]


def test_a_task_names_no_sample(plan: dict[str, Any], vault: Vault, data: Digits) -> None:
    split = fit_rows(groups(plan, 3), Shelf(vault, "wide-1-"), silent(), keep=set(data.ids[5:]), given=None)

    assert len(split.tasks) == 6  # type: ignore[union-attr]
    assert not any(sample in str(split) for sample in data.ids)
