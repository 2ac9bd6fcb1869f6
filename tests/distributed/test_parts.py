"""One fit over several workers: the same files as from one process, whoever encoded what, and whoever was killed meanwhile."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import psutil
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from service import erasure
from service.blobs import open_vault
from service.db import Database
from service.tables import Job
from tests.digits import Digits, parquet, renamed
from tests.live import Cluster, Live

Start = Callable[..., Cluster]
FILES = ("core.safetensors", "user.safetensors")
COPIES = 5
PARTS = 9
"""Blocks of the data set: 5 x 1,797 rows, 1,000 a block and a part."""


@pytest.fixture(scope="module")
def many(data: Digits) -> Digits:
    """Digits several times under other names; the core rows once, as core."""
    more = [renamed(replace(data, roles=["user" if r == "core" else r for r in data.roles]), f"{n}-") for n in range(1, COPIES)]
    columns = ([value for d in (data, *more) for value in getattr(d, c)] for c in ("ids", "roles", "labels", "subjects", "hands"))
    return Digits(*columns, np.concatenate([data.images] * COPIES))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, many: Digits) -> list[list[str]]:
    """Hashes of what one process makes of them: of a fit, and of a retraining after it."""
    service = Live(tmp_path_factory.mktemp("alone"))
    service.upload("many", parquet(many, service.directory / "many.parquet"))
    try:
        service.fit("m", "many", expected_rows=10_000)
        fitted = hashes(service)
        service.job(service.forget("m", method="retrain", ids=gone(many)))
        return [fitted, hashes(service)]
    finally:
        service.stop()


@pytest.fixture
def start(cluster: Start, many: Digits) -> Start:
    def begin(**settings: str) -> Cluster:
        service = cluster(digits=False, part_rows="1000", **settings)
        service.upload("many", parquet(many, service.directory / "many.parquet"))
        return service

    return begin


def gone(many: Digits) -> list[str]:
    return [*many.of(role="core")[:2], *many.of(role="user")[:3], *many.of(role="audit")[:1]]


def begin_fit(service: Live) -> str:
    body = {"name": "m", "dataset": "many", "architecture": {"name": "convnet"}, "training": {"epochs": 5}, "expected_rows": 10_000}
    return str(service.client.post("/models", json=body).raise_for_status().headers["Location"])


def hashes(service: Live) -> list[str]:
    """Of the files of the latest version."""
    return [service.sha256("m", file) for file in FILES]


@contextmanager
def record(service: Cluster) -> Iterator[Database]:
    database = Database(service.settings["database_url"])
    yield database
    database.close()


def parts_of(session: Session, location: str) -> list[Job]:
    return list(session.scalars(select(Job).where(Job.parent_id == location.rpartition("/")[2]).order_by(Job.lane)))


def left_over(service: Cluster) -> set[str]:
    """Blobs that no record points at, once those who wrote them have had a moment to sweep."""
    url = service.settings["database_url"]
    vault = open_vault("postgres:", service.directory / "keys" / "blobs", data_dir=service.directory, database_url=url)
    for _ in range(50):
        stored = {blob for blob in vault.ids() if not blob.startswith("up_")} | set(vault.blobs.ids())  # but for keys made ahead
        with record(service) as database, database.read() as session:
            if not (left := stored - erasure.referenced(session)):
                return left
        time.sleep(0.1)
    return left


def freeze(service: Cluster, location: str, *, owner: bool) -> subprocess.Popen[bytes]:
    """Stop a worker, SIGSTOP, that has a part in hand and surely no longer writes down what came of it.

    Args:
        owner: the worker that has the whole job in hand, too; or another one.
    """
    deadline = time.monotonic() + 60
    root = location.rpartition("/")[2]
    with record(service) as database:
        while time.monotonic() < deadline:
            with database.read() as session:
                holder = session.get_one(Job, root).worker
                running = [p for p in parts_of(session, location) if p.state == "running" and (p.worker == holder) == owner]
            for part in running:
                worker = next(w for w in service.workers if str(part.worker).endswith(f":{w.pid}"))
                worker.send_signal(signal.SIGSTOP)
                time.sleep(0.2)  # a commit that was under way ends
                with database.read() as session:
                    found = session.get_one(Job, part.id)
                    if (found.state, found.worker) == ("running", part.worker):
                        return worker
                worker.send_signal(signal.SIGCONT)
            time.sleep(0.01)
    raise AssertionError("no worker could be caught with a part in hand")


def other_worker(service: Cluster, location: str) -> subprocess.Popen[bytes]:
    """Wait until one of two workers has the job in hand. Returns the other."""
    deadline = time.monotonic() + 60
    with record(service) as database:
        while time.monotonic() < deadline:
            with database.read() as session:
                root = session.get_one(Job, location.rpartition("/")[2])
                if root.state == "running":
                    return next(w for w in service.workers if not str(root.worker).endswith(f":{w.pid}"))
            time.sleep(0.01)
    raise AssertionError("nobody took the job")


def in_hand(service: Cluster, location: str, worker: subprocess.Popen[bytes]) -> None:
    """Wait until this worker has a part in hand."""
    deadline = time.monotonic() + 60
    with record(service) as database:
        while time.monotonic() < deadline:
            with database.read() as session:
                if any(p.state == "running" and str(p.worker).endswith(f":{worker.pid}") for p in parts_of(session, location)):
                    return
            time.sleep(0.01)
    raise AssertionError("the worker took no part")


@pytest.mark.faults
@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_gives_the_files_of_one_process(start: Start, alone: list[list[str]], many: Digits, workers: int) -> None:
    service = start(workers=workers)

    fit = begin_fit(service)
    service.end_of(fit)
    fitted = hashes(service)
    again = service.forget("m", method="retrain", ids=gone(many))
    service.job(again)
    listed = service.client.get("/jobs").json()["items"]
    parts = service.client.get("/jobs", params={"parent": fit.rpartition("/")[2]}).json()["items"]

    assert [fitted, hashes(service)] == alone
    assert {job["kind"] for job in listed} == {"validate", "fit", "forget"}
    assert [(p["kind"], p["state"]) for p in parts] == [("block", "done")] * PARTS
    with record(service) as database, database.read() as session:
        retrained = parts_of(session, again.headers["Location"])
    assert [p.state for p in retrained] == ["done"] * PARTS
    assert not any(sample in str(p.task) for p in retrained for sample in many.ids)
    assert left_over(service) == set()


@pytest.mark.faults
def test_a_part_whose_worker_is_killed_is_done_again_and_nothing_else_is(start: Start, alone: list[list[str]]) -> None:
    service = start(workers=3, lease_seconds="3")

    fit = begin_fit(service)
    worker = freeze(service, fit, owner=False)
    worker.kill()
    worker.wait()
    job = service.end_of(fit)

    with record(service) as database, database.read() as session:
        parts = parts_of(session, fit)
    assert (job["state"], job["attempt"]) == ("done", 0)
    assert hashes(service) == alone[0]
    assert [p.state for p in parts] == ["done"] * PARTS
    assert sorted(p.fence for p in parts) == [1] * (PARTS - 1) + [2]
    assert service.client.get(f"{fit}/events").text.count("event: claimed") == 1
    assert left_over(service) == set()


@pytest.mark.faults
def test_a_job_whose_worker_is_killed_is_split_anew_and_leaves_nothing_of_the_first_time(start: Start, alone: list[list[str]]) -> None:
    service = start(workers=2, lease_seconds="3")

    fit = begin_fit(service)
    worker = freeze(service, fit, owner=True)
    worker.kill()
    worker.wait()
    job = service.end_of(fit)

    with record(service) as database, database.read() as session:
        parts = parts_of(session, fit)
    assert (job["state"], job["attempt"], len(parts)) == ("done", 0, 2 * PARTS)
    assert hashes(service) == alone[0]
    assert "cancelled" in {p.state for p in parts[:PARTS]} <= {"done", "cancelled"}
    assert [p.state for p in parts[PARTS:]] == ["done"] * PARTS
    assert left_over(service) == set()


@pytest.mark.faults
def test_a_part_that_cannot_be_done_ends_its_job_with_its_reason(start: Start) -> None:
    service = start(workers=2, max_attempts="1")

    fit = begin_fit(service)
    worker = other_worker(service, fit)
    (child,) = psutil.Process(worker.pid).children()
    child.suspend()  # while the core is trained: the first part that this worker takes stays undone
    in_hand(service, fit, worker)
    child.kill()
    job = service.end_of(fit)

    with record(service) as database, database.read() as session:
        states = {p.state for p in parts_of(session, fit)}
    assert job["state"] == "failed"
    assert (job["error"]["code"], "worker process died" in job["error"]["detail"]) == ("internal", True)
    assert service.client.get("/models/m").json()["state"] == "failed"
    assert "failed" in states <= {"done", "failed", "cancelled"}
    assert left_over(service) == set()


@pytest.mark.faults
def test_a_worker_told_to_end_gives_back_the_job_and_the_part_in_hand(start: Start, alone: list[list[str]]) -> None:
    service = start(workers=1)

    fit = begin_fit(service)
    worker = freeze(service, fit, owner=True)
    worker.terminate()
    worker.send_signal(signal.SIGCONT)
    worker.wait(20)
    with record(service) as database, database.read() as session:
        between = {p.state for p in parts_of(session, fit)}, session.get_one(Job, fit.rpartition("/")[2]).state
    service.start_worker()
    job = service.end_of(fit)

    assert between[0] <= {"done", "cancelled"} and between[1] == "queued"
    assert (job["state"], job["attempt"]) == ("done", 0)
    assert hashes(service) == alone[0]
    assert left_over(service) == set()


@pytest.mark.faults
def test_cancelling_a_job_cancels_its_parts_and_leaves_nothing(start: Start, many: Digits) -> None:
    service = start(workers=2)
    service.end_of(begin_fit(service))
    answer = service.forget("m", method="retrain", ids=gone(many))

    worker = freeze(service, answer.headers["Location"], owner=True)
    cancelled = service.client.post(f"/forget/{answer.json()['id']}/cancel")
    worker.send_signal(signal.SIGCONT)
    job = service.end_of(answer.headers["Location"])
    kept = left_over(service)

    with record(service) as database, database.read() as session:
        parts = parts_of(session, answer.headers["Location"])
    assert cancelled.status_code < 300
    assert job["state"] == "cancelled"
    assert {p.state for p in parts} <= {"done", "cancelled"} and [p.result for p in parts] == [None] * PARTS
    assert kept == set()
