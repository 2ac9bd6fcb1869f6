"""Faults 1, 2, 3, 7 and 10: workers and their children are killed, frozen, told five times, and given poison."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable

import pytest
import redis
from sqlalchemy import select

from service.tables import Event, Job, Request
from tests.faults.installation import Installation
from tests.figures import Figures
from workers.celery_app import TASK, connect

pytestmark = pytest.mark.faults
Install = Callable[..., Installation]

KILLS = 10


def test_01_a_worker_killed_within_a_job_loses_and_doubles_nothing(install: Install, figures: Figures) -> None:
    there, draw = install(workers=2), random.Random(1)

    for _ in range(KILLS):
        there.ask(method="retrain")
        holder = there.holder()
        time.sleep(draw.random() * 0.3)
        there.kill_worker(there.workers.index(holder))
    found = there.audited()

    figures("1 worker killed within a job", runs=1, kills=there.kills, **found.counts, leases_lost=there.events("lease_lost"))
    assert found.well and found.accepted == KILLS, found
    assert there.events("lease_lost") >= KILLS / 3  # some kills fell into a job, else nothing was shown


def test_02_a_killed_child_is_charged_once_and_replaced(install: Install, figures: Figures) -> None:
    there = install(workers=1)

    for _ in range(KILLS):
        request = there.ask(method="retrain")
        there.wait(there.running)
        for child in there.children():
            child.kill()
            there.kills += 1
        there.rest()
        assert request in there.accepted
    found = there.audited()

    figures("2 child killed", runs=1, kills=there.kills, **found.counts, retries=there.events("retry"))
    assert found.well and found.accepted == KILLS, found
    assert 0 < there.events("retry") <= KILLS


def test_03_a_worker_frozen_past_its_lease_wakes_up_to_a_job_that_another_finished(install: Install, figures: Figures) -> None:
    there = install(workers=2)

    for turn in range(1, 4):
        there.ask(method="retrain")
        frozen = there.holder()
        frozen.send_signal(signal.SIGSTOP)
        there.kills += 1
        there.rest()
        frozen.send_signal(signal.SIGCONT)
        there.wait(lambda turn=turn: there.log.count("lost the lease") == turn)
    found = there.audited()

    figures("3 worker frozen past its lease", runs=3, kills=there.kills, **found.counts, leases_lost=there.events("lease_lost"))
    assert found.well and found.accepted == 3, found
    assert there.events("lease_lost") == 3


def test_07_hints_sent_five_times_and_shuffled_begin_each_job_once(install: Install, figures: Figures) -> None:
    there, draw = install(workers=4, models=4, datasets=4), random.Random(7)
    app = connect(there.redis.url)

    for _ in range(40):
        there.ask(f"m{draw.randrange(4)}")
        for _ in range(5):
            app.send_task(TASK, args=["cpu"], queue="cpu", ignore_result=True)
        there_now = redis.Redis.from_url(there.redis.url)
        waiting = there_now.lrange("cpu", 0, -1)
        assert isinstance(waiting, list)
        if len(waiting) > 1:
            there_now.rpush("cpu", draw.choice(waiting))  # one that was there already, out of turn
    found = there.audited()

    with there.record() as session:
        jobs = len(session.scalars(select(Job.id).where(Job.kind == "forget")).all())
        claims = len(session.scalars(select(Event.id).join(Job, Event.job_id == Job.id)
                                     .where(Event.kind == "claimed", Job.kind == "forget")).all())  # fmt: skip
    figures("7 hints five times, shuffled", runs=1, **found.counts, hints=200, jobs=jobs, claims=claims)
    assert found.well and found.accepted == 40, found
    assert claims == jobs


def test_10_a_poison_job_is_parked_and_its_lane_goes_on(install: Install, figures: Figures) -> None:
    there = install(workers=2)

    poison = there.ask(method="retrain")
    with there.record() as session:
        job = session.get_one(Request, poison).job_id
    seen = 0

    def parked() -> bool:
        nonlocal seen
        with there.record() as session:
            row = session.get_one(Job, job)
            if row.state == "running" and row.fence > seen:  # whoever takes it up dies of it
                seen = row.fence
                for child in there.children():
                    child.kill()
                    there.kills += 1
            return row.state == "failed"

    there.wait(parked)
    after = there.ask()
    found = there.audited(may_fail=(poison,))

    figures("10 poison job", runs=1, kills=there.kills, **found.counts)
    assert found.well and found.accepted == 2, found
    with there.record() as session:
        row = session.get_one(Job, job)
        assert (row.attempt, row.error["code"]) == (3, "internal")
        assert session.get_one(Request, after).state == "fulfilled"
