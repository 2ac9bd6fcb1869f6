"""A linearised model forgets over several workers: the residual of one process, to the bit, whoever summed what and whoever was killed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.digits import Digits, parquet, renamed
from tests.distributed.test_parts import freeze, left_over, parts_of, record
from tests.live import Cluster, Live

Start = Callable[..., Cluster]
FORM = {
    "architecture": {"name": "convnet", "hidden": [16, 16, 32, 32]},
    "training": {"epochs": 2},
    "linearize": "all",
    "release": {"rank": 32, "sigma": 0.1},
    "ridge": 3.0,
    "expected_rows": 4000,
}
"""The network is so large that a worker can be caught with a part in hand."""

PARTS = 4
"""Blocks of the data set: 2 x 1,797 rows, 1,000 a block and a part."""


@pytest.fixture(scope="module")
def twice(data: Digits) -> Digits:
    """Digits twice under other names; the core rows once, as core."""
    again = renamed(replace(data, roles=["user" if r == "core" else r for r in data.roles]), "again-")
    columns = ([*getattr(data, c), *getattr(again, c)] for c in ("ids", "roles", "labels", "subjects", "hands"))
    return Digits(*columns, np.concatenate([data.images] * 2))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, twice: Digits) -> dict[str, Any]:
    """How one process came to forget."""
    service = Live(tmp_path_factory.mktemp("alone"))
    try:
        ask(service, twice)
        return solver(service)
    finally:
        service.stop()


def ask(service: Live, rows: Digits, *, wait: bool = True) -> str:
    """Fit a model and have it forget. Returns the address of the job."""
    service.upload("twice", parquet(rows, service.directory / "twice.parquet"))
    service.fit("m", "twice", **FORM)
    answer = service.forget("m", method="cg", ids=rows.of(role="user")[:3])
    if wait:
        service.job(answer)
    return str(answer.headers["Location"])


def solver(service: Live) -> dict[str, Any]:
    """What came out of the last version's solver, without how long it took and who did it."""
    said = service.client.get("/models/m/versions/2/solver").raise_for_status().json()
    return {k: said[k] for k in ("reached", "target", "error", "residual", "passes", "history")}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_gives_the_residual_of_one_process(
    cluster: Start, alone: dict[str, Any], twice: Digits, workers: int
) -> None:
    service = cluster(digits=False, part_rows="1000", workers=workers)

    job = ask(service, twice)

    assert alone["reached"] and alone["residual"] > 0
    assert solver(service) == alone
    with record(service) as database, database.read() as session:
        parts = parts_of(session, job)
    assert len(parts) >= PARTS and len(parts) % PARTS == 0
    assert {p.state for p in parts} == {"done"} and {p.result for p in parts} == {None}
    assert not any(sample in str(p.task) for p in parts for sample in twice.ids)
    assert left_over(service) == set()


@pytest.mark.slow
def test_a_part_whose_worker_is_killed_is_summed_again_alone(cluster: Start, alone: dict[str, Any], twice: Digits) -> None:
    service = cluster(digits=False, part_rows="1000", workers=3, lease_seconds="3")

    place = ask(service, twice, wait=False)
    worker = freeze(service, place, owner=False)
    worker.kill()
    worker.wait()
    job = service.end_of(place)

    assert (job["state"], job["attempt"]) == ("done", 0)
    assert solver(service) == alone
    with record(service) as database, database.read() as session:
        fences = sorted(p.fence for p in parts_of(session, place))
    assert fences == [1] * (len(fences) - 1) + [2]
    assert left_over(service) == set()
