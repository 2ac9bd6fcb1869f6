"""Faults 4, 5, 6, 8 and 22: Redis and PostgreSQL go and come, the API dies after its word, wires fall silent."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import redis

from tests.faults.installation import Installation
from tests.faults.proxy import Proxy
from tests.figures import Figures

pytestmark = pytest.mark.faults
Install = Callable[..., Installation]

STOPS = 20
API_KILLS = int(os.environ.get("EXPUNGE_API_KILLS", "100"))


def test_04_redis_is_flushed_stopped_and_started_and_no_job_notices(install: Install, figures: Figures) -> None:
    there = install(workers=2, models=2, datasets=2)

    for turn in range(6):
        for model in ("m0", "m1"):
            there.ask(model)
        if turn % 3 == 0:
            redis.Redis.from_url(there.redis.url).flushall()
        elif turn % 3 == 1:
            there.redis.kill()
            there.kills += 1
        else:
            there.redis.start()
    found = there.audited()

    figures("4 Redis flushed, killed, started", runs=6, kills=there.kills, **found.counts)
    assert found.well and found.accepted == 12, found


def test_05_redis_that_is_absent_at_the_start_is_waited_for_by_nobody(install: Install, figures: Figures) -> None:
    there = install(workers=2, redis_up=False)

    there.ask()
    there.rest()
    there.redis.start()
    there.ask()
    found = there.audited()

    figures("5 Redis absent at the start", runs=1, **found.counts)
    assert found.well and found.accepted == 2, found


def test_06_postgres_crashes_at_random_points_and_every_promise_is_kept(install: Install, figures: Figures) -> None:
    there, draw = install(workers=2), random.Random(6)
    with ThreadPoolExecutor(1) as pool:
        for _ in range(STOPS):
            asked = pool.submit(there.ask, method=draw.choice(["auto", "retrain"]))
            time.sleep(draw.random() * 1.5)
            there.postgres.stop("immediate")
            there.kills += 1
            time.sleep(draw.random() * 0.5)
            there.postgres.start()
            asked.result()
    found = there.audited()

    figures("6 PostgreSQL crashed at random points", runs=STOPS, kills=there.kills, **found.counts)
    assert found.well and found.accepted == STOPS, found


@pytest.fixture
def wire(install: Install) -> Iterator[Proxy]:
    there = install(workers=0, furnished=False)
    wire = Proxy(there.postgres.port)
    wire.there = there  # type: ignore[attr-defined]
    yield wire
    wire.close()


def behind(there: Installation, wire: Proxy) -> None:
    """Start a worker whose database is at the other end of the wire."""
    direct = there.settings["database_url"]
    there.settings["database_url"] = direct.replace(str(there.postgres.port), str(wire.port))
    there.start_worker()
    there.settings["database_url"] = direct


@pytest.mark.parametrize("cut", ["before", "after"])
def test_06_the_final_commit_is_cut_and_its_outcome_unknown(wire: Proxy, cut: str, figures: Figures) -> None:
    there: Installation = wire.there  # type: ignore[attr-defined]
    behind(there, wire)
    there.furnish()

    for _ in range(10):
        wire.cut = cut  # type: ignore[assignment]
        there.ask()
        there.rest()
    found = there.audited()

    figures(f"6 final commit cut {cut} the server saw it", runs=10, kills=wire.cuts, **found.counts, retries=there.events("retry"))
    assert found.well and found.accepted == 10, found
    assert wire.cuts == 10
    assert there.events("retry") == 0  # nobody's fault but the wire's


def test_08_the_api_dies_right_after_its_word_and_keeps_it(install: Install, figures: Figures) -> None:
    there = install(workers=2, models=2, datasets=2)
    draw = random.Random(8)

    for turn in range(API_KILLS):
        there.ask(f"m{turn % 2}")
        if draw.random() < 0.5:
            time.sleep(draw.random() * 0.2)
        there.kill_api()
    found = there.audited()

    figures("8 API killed after 202", runs=API_KILLS, kills=there.kills, **found.counts)
    assert found.well and found.accepted == API_KILLS, found


def test_22_a_wire_that_falls_silent_costs_a_lease_and_nothing_else(wire: Proxy, figures: Figures) -> None:
    there: Installation = wire.there  # type: ignore[attr-defined]
    behind(there, wire)
    there.furnish()

    there.ask(method="retrain")
    there.wait(there.running)
    wire.freeze()
    there.start_worker()
    there.rest()
    silent = [httpx.Client(base_url=there.client.base_url) for _ in range(50)]  # and callers that say nothing more
    for client in silent:
        client.get("/healthz")
    wire.hang_up()
    wire.thaw()
    there.kill_worker(1, again=False)
    there.ask()
    found = there.audited()
    for client in silent:
        client.close()

    figures("22 half-open connections", runs=1, kills=there.kills, **found.counts, leases_lost=there.events("lease_lost"))
    assert found.well and found.accepted == 2, found
    assert there.events("lease_lost") >= 1


def test_22_requests_are_answered_while_others_hang(install: Install, figures: Figures) -> None:
    there = install(workers=1)
    stop = threading.Event()

    def hang() -> None:
        import socket

        with socket.create_connection(("127.0.0.1", int(there.client.base_url.port or 0))) as end:
            end.sendall(b"POST /forget HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
            stop.wait(60)

    with ThreadPoolExecutor(50) as pool:
        for _ in range(50):
            pool.submit(hang)
        there.ask()
        found = there.audited()
        stop.set()

    figures("22 half-sent requests beside", runs=1, **found.counts, hanging=50)
    assert found.well and found.accepted == 1, found
