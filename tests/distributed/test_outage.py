"""The database stops and comes back: jobs in hand go on, results are written once, callers are told to try again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.digits import Digits
from tests.live import Cluster
from tests.servers import Server, no_servers, private_postgres


@pytest.fixture
def breakable() -> Iterator[Server]:
    """A PostgreSQL of one test's own, which it may stop."""
    if missing := no_servers():
        pytest.skip(missing)
    with private_postgres() as server:
        yield server


@pytest.mark.faults
def test_a_job_outlives_a_crash_of_the_database_and_is_not_charged(
    breakable: Server, redis_server: Server, tmp_path: Path, upload: bytes, data: Digits
) -> None:
    service = Cluster(tmp_path, database_url=breakable.url, redis_url=redis_server.url)
    try:
        service.upload("digits", upload)
        service.fit("m", "digits")
        answer = service.forget("m", ids=data.of(role="core")[:1], method="retrain")
        while service.client.get(answer.headers["Location"]).json()["phase"] != "training the core":
            time.sleep(0.02)

        breakable.stop("immediate")
        told = service.client.get(answer.headers["Location"])
        asked = service.forget("m", ids=data.of(role="user")[:1])
        breakable.start()
        job = _end(service, answer.headers["Location"])
        ended = service.request(answer.json()["id"])
    finally:
        service.stop()

    assert [(r.status_code, r.headers["Retry-After"]) for r in (told, asked)] == [(503, "2")] * 2
    assert {told.json()["code"], asked.json()["code"]} == {"record_unavailable"}
    assert (job["state"], job["version"], job["attempt"]) == ("done", 2, 0)
    assert ended["state"] == "fulfilled"


def _end(service: Cluster, location: str) -> dict[str, object]:
    """How a job ends; the first answers after the crash may still be 503."""
    for _ in range(300):
        try:
            found = service.client.get(location)
            if found.status_code == 200 and found.json()["state"] not in ("queued", "running"):
                return dict(found.json())
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError("the job did not end")
