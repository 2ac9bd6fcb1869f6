"""The life of a job on real databases: claims, leases, fences."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from service import jobs, migrate
from service.db import Database
from service.jobs import Claim, LostLease
from service.tables import Dataset, Event, Job

T0 = datetime(2026, 1, 31, 12, tzinfo=UTC)
LEASE = timedelta(seconds=15)


@pytest.fixture
def db(record: str) -> Iterator[Database]:
    migrate.upgrade(record)
    database = Database(record)
    with database.write() as session:
        session.add_all(Dataset(id=f"ds_{i}", name=f"d{i}", state="ready", source_sha256="0", created_at=T0) for i in range(3))
    yield database
    database.close()


def submit(db: Database, dataset: int = 0, at: datetime = T0) -> str:
    with db.write() as session:
        return jobs.submit(session, kind="validate", dataset_id=f"ds_{dataset}", model_id=None, method=None, now=at).id


def claim(db: Database, at: datetime = T0, worker: str = "w") -> Claim | None:
    with db.write() as session:
        return jobs.claim(session, worker=worker, now=at, lease=LEASE)


def state(db: Database, job_id: str) -> Job:
    with db.read() as session:
        job = session.get(Job, job_id)
        assert job is not None
        return job


def finish(db: Database, held: Claim, at: datetime = T0) -> None:
    with db.write() as session:
        jobs.finish(session, held, state="done", now=at)


def sweep(db: Database, at: datetime, *, max_claims: int = 50, restarted: bool = False) -> list[str]:
    with db.write() as session:
        return jobs.sweep(session, now=at, max_claims=max_claims, restarted=restarted)


def test_a_job_is_claimed_once_and_ends_once(db: Database) -> None:
    job_id = submit(db)

    held = claim(db)
    nothing = claim(db)
    assert held is not None
    finish(db, held)

    assert (held.job_id, held.fence) == (job_id, 1)
    assert nothing is None
    assert state(db, job_id).state == "done"
    with pytest.raises(LostLease):
        finish(db, held)


def test_eight_threads_claim_forty_jobs_and_none_twice(db: Database) -> None:
    for _ in range(14):
        for dataset in range(3):
            submit(db, dataset)
    seen: list[str] = []

    def work() -> None:
        idle = 0
        while idle < 50:
            held = claim(db)
            if held is None:
                idle += 1
                continue
            seen.append(held.job_id)
            finish(db, held)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(seen) == len(set(seen)) == 42


def test_two_jobs_of_one_data_set_never_run_at_once(db: Database) -> None:
    first, second, other = submit(db, 0), submit(db, 0), submit(db, 1)

    a, b, c = claim(db), claim(db), claim(db)
    assert a is not None and b is not None
    finish(db, a)
    d = claim(db)

    assert (a.job_id, b.job_id, c) == (first, other, None)
    assert d is not None and d.job_id == second
    with pytest.raises(IntegrityError), db.write() as session:  # the database says so too, not only the query
        row = session.get(Job, jobs.submit(session, kind="validate", dataset_id="ds_1", model_id=None, method=None, now=T0).id)
        assert row is not None
        row.state, row.lease_until = "running", T0


def test_a_worker_that_slept_past_its_lease_can_neither_renew_nor_publish(db: Database) -> None:
    job_id = submit(db)
    sleeper = claim(db, worker="sleeper")
    assert sleeper is not None

    swept = sweep(db, T0 + LEASE + timedelta(seconds=1))
    second = claim(db, T0 + LEASE * 2, worker="second")
    assert second is not None

    assert swept == []
    assert second.fence == sleeper.fence + 1
    for use in (lambda s: jobs.renew(s, sleeper, now=T0, lease=LEASE, phase="x", progress=0.5),
                lambda s: jobs.finish(s, sleeper, state="done", now=T0)):  # fmt: skip
        with pytest.raises(LostLease), db.write() as session:
            use(session)
    finish(db, second)
    assert state(db, job_id).state == "done"


def test_the_fence_tells_two_claims_by_the_same_worker_apart(db: Database) -> None:
    """Without the fence the state alone reads `running` again: the ABA hole."""
    submit(db)
    first = claim(db, worker="same")
    assert first is not None
    sweep(db, T0 + LEASE * 2)
    again = claim(db, T0 + LEASE * 2, worker="same")

    assert again is not None and state(db, again.job_id).state == "running"
    with pytest.raises(LostLease):
        finish(db, first)


def test_renewing_keeps_a_lease_and_records_a_phase_once(db: Database) -> None:
    job_id = submit(db)
    held = claim(db)
    assert held is not None

    for second in range(1, 40):
        with db.write() as session:
            jobs.renew(session, held, now=T0 + timedelta(seconds=second), lease=LEASE, phase="solving", progress=second / 40)
    sweep(db, T0 + timedelta(seconds=50))

    assert state(db, job_id).state == "running"
    with db.read() as session:
        kinds = [(e.kind, e.data) for e in session.scalars(select(Event).where(Event.job_id == job_id).order_by(Event.id))]
    assert kinds == [("queued", {}), ("claimed", {"fence": 1}), ("phase", {"phase": "solving"})]


def test_failures_back_off_and_the_third_parks_the_job(db: Database) -> None:
    job_id, at, waits = submit(db), T0, []

    for _ in range(3):
        held = claim(db, at)
        assert held is not None
        with db.write() as session:
            parked = jobs.charge(session, held, now=at, max_attempts=3, why="ValueError")
        job = state(db, job_id)
        waits.append((job.run_after - at).total_seconds())
        assert claim(db, at) is None
        at = max(at, job.run_after)

    assert parked and state(db, job_id).state == "failed"
    assert waits[:2] == [2.0, 4.0]
    assert "ValueError" in str(state(db, job_id).error)


def test_a_job_that_takes_every_process_down_is_parked_after_its_last_claim(db: Database) -> None:
    job_id = submit(db)
    parked: list[str] = []

    for _ in range(4):
        assert not parked
        assert claim(db) is not None
        parked = sweep(db, T0, max_claims=4, restarted=True)

    assert parked == [job_id]
    assert state(db, job_id).state == "failed"


def test_a_restart_gives_back_running_jobs_whose_lease_has_not_ended(db: Database) -> None:
    job_id = submit(db)
    assert claim(db) is not None

    sweep(db, T0)
    kept = state(db, job_id).state
    sweep(db, T0, restarted=True)

    assert kept == "running"
    assert state(db, job_id).state == "queued"


@pytest.mark.parametrize("running", [False, True])
def test_cancelling_is_final_and_shuts_the_worker_out(db: Database, running: bool) -> None:
    job_id = submit(db)
    held = claim(db) if running else None

    with db.write() as session:
        first, second = jobs.cancel(session, job_id, now=T0), jobs.cancel(session, job_id, now=T0)

    assert (first, second, state(db, job_id).state) == (True, False, "cancelled")
    assert claim(db) is None
    if held:
        with pytest.raises(LostLease):
            finish(db, held)


def test_a_transaction_that_lost_its_lease_keeps_nothing(db: Database) -> None:
    submit(db)
    held = claim(db)
    assert held is not None
    sweep(db, T0, restarted=True)

    with pytest.raises(LostLease), db.write() as session:
        session.add(Dataset(id="ds_new", name="new", state="ready", source_sha256="0", created_at=T0))
        jobs.finish(session, held, state="done", now=T0)

    with db.read() as session:
        assert session.get(Dataset, "ds_new") is None
