"""Real processes: API, dispatcher and workers over PostgreSQL and Redis."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.digits import Digits
from tests.live import Cluster, Live
from tests.servers import Server, fresh_database, private_redis

Start = Callable[..., Cluster]


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def phase_of(service: Live, location: str) -> str:
    return str(service.client.get(location).json()["phase"])


@contextmanager
def second_api(cluster: Cluster, directory: Path) -> Iterator[httpx.Client]:
    """One more API process over the same servers and keys."""
    directory.mkdir()
    command = [sys.executable, "-m", "expunge.cli", "serve", "--key-file", str(directory / "key")]
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(command, env=cluster.environment, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    try:
        address = process.stdout.readline().split()[-1]
        with httpx.Client(base_url=address, headers=dict(cluster.client.headers), timeout=60) as client:
            yield client
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


@pytest.mark.slow
def test_both_forms_of_the_service_give_the_same_bits(cluster: Start, own_live: Live, data: Digits) -> None:
    over_servers, gone = cluster(), data.of(subject="person-07")

    for service in (own_live, over_servers):
        service.fit("m", "digits")
        service.request(service.forget("m", ids=gone).json()["id"])

    for file in ("core.safetensors", "user.safetensors"):
        assert own_live.sha256("m", file) == over_servers.sha256("m", file)


@pytest.mark.faults
def test_a_worker_told_to_end_gives_its_job_back_at_once_and_another_finishes_it(cluster: Start, data: Digits) -> None:
    service = cluster()
    service.fit("m", "digits")
    answer = service.forget("m", ids=data.of(role="core")[:1], method="retrain")
    until(lambda: phase_of(service, answer.headers["Location"]) == "training the core")

    began = time.monotonic()
    service.workers[0].send_signal(signal.SIGTERM)
    until(lambda: service.client.get(answer.headers["Location"]).json()["state"] == "queued")
    given_back = time.monotonic() - began
    code = service.workers[0].wait(20)
    service.start_worker()
    job = service.job(answer)

    assert code == 0
    assert given_back < 5  # and not the lease of 15 s
    assert (job["state"], job["version"], job["attempt"]) == ("done", 2, 0)
    assert "event: given_back" in service.client.get(f"{answer.headers['Location']}/events").text


@pytest.mark.faults
def test_a_killed_workers_job_is_taken_over_when_its_lease_ends(cluster: Start, data: Digits) -> None:
    service = cluster(lease_seconds="3", workers=2)
    service.fit("m", "digits")
    answer = service.forget("m", ids=data.of(role="core")[:1], method="retrain")
    until(lambda: phase_of(service, answer.headers["Location"]) == "training the core")

    with service_record(service) as holder:
        worker = next(w for w in service.workers if holder.endswith(f":{w.pid}"))
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    job = service.job(answer)

    events = service.client.get(f"{answer.headers['Location']}/events").text
    assert (job["version"], job["attempt"], events.count("event: claimed"), events.count("event: lease_lost")) == (2, 0, 2, 1)


@contextmanager
def service_record(service: Cluster) -> Iterator[str]:
    """The name of the worker that has a job in hand."""
    from sqlalchemy import select

    from service.db import Database
    from service.tables import Job

    database = Database(service.settings["database_url"])
    with database.read() as session:
        yield session.scalars(select(Job.worker).where(Job.state == "running")).one() or ""
    database.close()


@pytest.mark.faults
def test_a_job_that_computes_for_too_long_is_ended_and_says_why(cluster: Start, data: Digits) -> None:
    service = cluster(job_seconds="6")
    body = {"name": "slow", "dataset": "digits", "architecture": {"name": "convnet"}, "training": {"epochs": 10_000}}

    job = service.job(service.client.post("/models", json=body), state="failed")
    service.fit("quick", "digits", training={"epochs": 1})

    assert job["error"]["code"] == "time_limit"
    assert service.client.get("/models/slow").json()["state"] == "failed"
    assert service.version("quick")["number"] == 1


def test_any_api_process_answers_the_same_and_a_key_counts_once_over_all(cluster: Start, data: Digits, tmp_path: Path) -> None:
    service = cluster()
    service.fit("m", "digits")
    body = {"model": "m", "forget": {"kind": "samples", "ids": data.of(role="user")[:2]}}

    with second_api(service, tmp_path / "second") as other:
        answers: list[httpx.Response] = []
        gate = threading.Barrier(6)

        def ask(client: httpx.Client) -> None:
            gate.wait()
            answers.append(client.post("/forget", json=body, headers={"Idempotency-Key": "once"}))

        threads = [threading.Thread(target=ask, args=(client,)) for client in (service.client, other) * 3]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ended = service.request(answers[0].json()["id"])
        seen = other.get(f"/forget/{ended['id']}").json()

    assert {a.status_code for a in answers} == {202}
    assert len({a.json()["id"] for a in answers}) == 1
    assert len(service.client.get("/forget").json()["items"]) == 1
    assert seen == ended and ended["state"] == "fulfilled"


@pytest.mark.faults
def test_jobs_are_carried_out_without_redis_and_with_redis_that_came_late(
    postgres: Server, cluster: Start, upload: bytes, tmp_path: Path, data: Digits
) -> None:
    with private_redis() as late:
        late.kill()
        service = cluster(redis_url=late.url)  # the upload itself is a job
        service.fit("m", "digits")
        late.start()
        ended = service.request(service.forget("m", ids=data.of(role="user")[:1]).json()["id"])

    assert ended["state"] == "fulfilled"
    assert "hints cannot be sent" in service.log


@pytest.mark.parametrize(
    ("given", "said"),
    [({"EXPUNGE_DATABASE_URL": "mysql://x/y"}, "postgresql"), ({"EXPUNGE_DATABASE_URL": "postgresql://x/y"}, "EXPUNGE_REDIS_URL")],
)
def test_settings_that_cannot_work_are_refused_in_a_sentence(given: dict[str, str], said: str, tmp_path: Path) -> None:
    environment = dict(os.environ) | {"EXPUNGE_DATA_DIR": str(tmp_path / "data")} | given

    ended = subprocess.run([sys.executable, "-m", "expunge.cli", "serve"], env=environment, capture_output=True, text=True, timeout=60)

    assert ended.returncode == 1
    assert said in ended.stderr and "Traceback" not in ended.stderr


def test_neither_api_nor_worker_starts_before_the_database_is_migrated(postgres: Server, redis_server: Server, tmp_path: Path) -> None:
    with fresh_database(postgres) as url:
        environment = dict(os.environ) | {"EXPUNGE_DATABASE_URL": url, "EXPUNGE_REDIS_URL": redis_server.url,
                                          "EXPUNGE_DATA_DIR": str(tmp_path / "data")}  # fmt: skip

        def run(*command: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run([sys.executable, "-m", "expunge.cli", *command], env=environment, capture_output=True, text=True,
                                  timeout=60)  # fmt: skip

        refused = [run("serve"), run("worker")]
        migrated = [run("migrate"), run("migrate")]

    assert [r.returncode for r in refused] == [1, 1]
    assert all("expunge migrate" in r.stderr for r in refused)
    assert [m.returncode for m in migrated] == [0, 0]
