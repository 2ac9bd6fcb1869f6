"""Fault 21: thousands of requests on many models while somebody is killed every few seconds.

`EXPUNGE_SOAK=REQUESTS,MODELS,WORKERS,SECONDS_BETWEEN_KILLS` makes it larger or smaller.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from sqlalchemy import func, select

from service.tables import Job
from tests.faults.installation import Installation
from tests.figures import Figures

pytestmark = pytest.mark.faults
Install = Callable[..., Installation]

REQUESTS, MODELS, WORKERS, BETWEEN = (float(part) for part in os.environ.get("EXPUNGE_SOAK", "2000,20,4,3").split(","))


@pytest.mark.parametrize("kills", [False, True], ids=["in peace", "under fire"])
@pytest.mark.timeout(7200)
def test_21_every_request_of_thousands_ends_once(install: Install, kills: bool, figures: Figures) -> None:
    """A client a model, who asks again when the last request has ended: so that there are about as many jobs as requests."""
    there = install(workers=int(WORKERS), models=int(MODELS), datasets=int(MODELS))
    draw, over = random.Random(21), threading.Event()

    def client(number: int) -> None:
        for _ in range(int(REQUESTS) // int(MODELS)):
            _until_ended(there, there.ask(f"m{number}"))

    def fire() -> None:
        while not over.wait(BETWEEN):
            _kill_one(there, draw)

    shooter = threading.Thread(target=fire)
    began = time.monotonic()
    if kills:
        shooter.start()
    with ThreadPoolExecutor(int(MODELS)) as pool:
        list(pool.map(client, range(int(MODELS))))
    spent = time.monotonic() - began
    over.set()
    if kills:
        shooter.join()
    found = there.audited()

    with there.record() as session:
        jobs = session.scalar(select(func.count()).select_from(Job).where(Job.kind == "forget"))
    name = f"21 soak {'with kills' if kills else 'in peace'}, {int(REQUESTS):,} requests, {int(MODELS)} models, {int(WORKERS)} workers"
    figures(name, runs=1, kills=there.kills, **found.counts, jobs=jobs, leases_lost=there.events("lease_lost"), seconds=round(spent, 1),
            requests_a_second=round(REQUESTS / spent, 2))  # fmt: skip
    assert found.well and found.accepted == int(REQUESTS) // int(MODELS) * int(MODELS), found
    assert there.kills > 0 or not kills


def _until_ended(there: Installation, request: str) -> None:
    """Wait for its job, as clients do, and then for its answer."""
    deadline, job_ended = time.monotonic() + 600, False
    while time.monotonic() < deadline:
        try:
            address = f"/forget/{request}" if job_ended else f"{there.locations[request]}?wait=15"
            answer = there.client.get(address, timeout=20)
        except (httpx.HTTPError, RuntimeError):  # the API is being killed, or comes back elsewhere
            time.sleep(0.2)
            continue
        ended = answer.status_code == 200 and answer.json()["state"] not in ("queued", "running", "received", "in_progress")
        if ended and job_ended:
            return
        job_ended = job_ended or ended
        time.sleep(0 if ended else 0.1)
    raise AssertionError(f"{request} never ended")


def _kill_one(there: Installation, draw: random.Random) -> None:
    """A worker, its child, or the API; whoever it is comes back."""
    which = draw.random()
    if which < 0.6:
        there.kill_worker(draw.randrange(len(there.workers)))
    elif which < 0.85 and (children := there.children()):
        children[draw.randrange(len(children))].kill()
        there.kills += 1
    else:
        there.kill_api()
