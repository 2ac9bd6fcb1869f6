"""Thousands of schedules of the real runner, dispatcher and routes: nothing lost, nothing doubled, nothing released uncertified.

What is simulated: the order in which processes take turns, the clock, the hints, the child's mathematics, and every fault. What is
real: routes, records, jobs, outcomes, erasure, certificates and log on SQLite, whose transactions follow one another; how transactions
of PostgreSQL meet within each other is for `tests/faults` to show.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

import workers.runner
from service import erasure, jobs, presence
from service.jobs import Claim, LostLease
from service.tables import Job
from tests.simulation import schedule
from tests.simulation.schedule import Result
from tests.simulation.world import Faults

CHUNK = 25
QUICK = 1
"""Chunks in every run of the tests."""
ALL = int(os.environ.get("EXPUNGE_SCHEDULES", "10000")) // CHUNK
"""Chunks in `make faults`."""


def play(seeds: range) -> list[Result]:
    return [schedule.run(seed) for seed in seeds]


def wrong(results: list[Result]) -> dict[int, str]:
    return {r.seed: r.violation for r in results if r.violation}


@pytest.mark.parametrize("chunk", range(QUICK))
def test_no_schedule_loses_or_doubles_anything(chunk: int) -> None:
    results = play(range(chunk * CHUNK, (chunk + 1) * CHUNK))

    assert wrong(results) == {}


@pytest.mark.faults
@pytest.mark.parametrize("chunk", range(QUICK, ALL))
def test_no_schedule_of_many_loses_or_doubles_anything(chunk: int, figures: Any) -> None:
    results = play(range(chunk * CHUNK, (chunk + 1) * CHUNK))

    struck = sum((Counter(r.counts) for r in results), Counter[str]())
    figures("simulation", schedules=len(results), violations=len(wrong(results)), **{k.replace(" ", "_"): v for k, v in struck.items()})
    assert wrong(results) == {}


def test_every_fault_strikes_in_a_few_schedules() -> None:
    often = Faults(crash=0.01, crash_at_commit=0.05, unknown=0.05, pause=0.01, child=0.05, hint_lost=0.3, hint_twice=0.3)
    struck = sum((Counter(schedule.run(seed, faults=often).counts) for seed in range(15)), Counter[str]())

    assert {"crash", "crash at commit", "commit unknown", "pause", "child died", "hint lost", "hint doubled"} <= set(struck)
    assert struck["requests"] > 45


def test_the_same_seed_gives_the_same_schedule() -> None:
    first, again, other = schedule.run(7), schedule.run(7), schedule.run(8)

    assert first == again
    assert first.trace != other.trace


def test_without_faults_nothing_goes_wrong() -> None:
    results = [schedule.run(seed, faults=Faults()) for seed in range(5)]

    assert wrong(results) == {}


def test_idle_workers_write_nothing_but_that_they_live() -> None:
    here = schedule.stage()
    here.set()
    with schedule.simulated() as enter:
        world = schedule._world(0, here)
        enter(world)
        for number in range(3):
            world.baton.spawn(f"worker {number}", schedule._guarded(world, schedule._worker, number))
        world.baton.run(until=lambda: world.baton.clock > presence.EVERY.total_seconds() - 1)

    assert world.violation is None and world.baton.points > 3 * 3 * 2  # each looked three times at least
    assert world.commits == 3


# Planted bugs: a simulation that does not find them would prove nothing ------------------------------------------------


def first_found(most: int, **how: Any) -> Result:
    """The first schedule that shows a planted bug; the last one if none does."""
    for seed in range(most):
        result = schedule.run(seed, **how)
        if result.violation:
            break
    return result


def test_it_finds_a_worker_whose_fence_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    def move(session: Session, held: Claim, **values: Any) -> None:
        if jobs._rows(session, update(Job).where(Job.id == held.job_id, Job.state == "running").values(**values)) != 1:
            raise LostLease(held.job_id)

    monkeypatch.setattr(jobs, "_move", move)
    monkeypatch.setattr(jobs, "hold", lambda session, held: None)

    found = first_found(300, faults=Faults(pause=0.05))

    assert found.violation is not None


def test_it_finds_hints_that_are_sent_once_and_believed() -> None:
    found = first_found(100, faults=Faults(hint_lost=0.2), looks=False)

    assert found.violation is not None and "not final" in found.violation


def test_it_finds_parts_that_outlive_the_claim_that_made_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_end_parts", lambda *_: None)

    found = first_found(100, faults=Faults(crash=0.02))

    assert found.violation is not None and "its job is" in found.violation


def test_it_finds_what_a_part_made_being_swept_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    known = erasure.referenced
    monkeypatch.setattr(erasure, "referenced", lambda *about: {blob for blob in known(*about) if "-b0" not in blob})

    found = first_found(20, faults=Faults())

    assert found.violation is not None and "BlobMissing" in found.violation


def test_it_finds_a_commit_of_unknown_outcome_that_is_taken_for_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = workers.runner.Runner
    publish = runner._publish

    def write_once(self: Any, outcome: Any) -> None:
        with self._home.db.write() as session:
            outcome(session)

    def careless(self: Any, held: Claim, outcome: dict[str, Any], hardware: dict[str, Any]) -> None:
        try:
            publish(self, held, outcome, hardware)
        except OperationalError:  # "it failed": so what it wrote can go
            for blob in list(self._home.vault.ids(f"{held.job_id}-{held.fence}-")):
                self._home.vault.shred(blob)
            raise

    monkeypatch.setattr(runner, "_write", write_once)
    monkeypatch.setattr(runner, "_publish", careless)

    found = first_found(300, faults=Faults(unknown=0.1))

    assert found.violation is not None
    assert "cannot be read" in found.violation or "BlobMissing" in found.violation
