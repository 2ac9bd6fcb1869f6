"""Parts of a running job: taken by anybody, counted for nobody, ended with the claim that split it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from service import erasure, jobs, migrate, outcomes
from service.db import Database
from service.jobs import Claim, LostLease
from service.metrics import Metrics
from service.states import Queue
from service.tables import Dataset, Job, Model

T0 = datetime(2026, 1, 31, 12, tzinfo=UTC)
LEASE = timedelta(seconds=15)
OUTCOME = {"result": {"blocks": [{"number": 0, "blob": "rows", "rows": 9}], "blobs": {"statistics": "sums"}}, "seconds": {"writing": 1.0}}


@pytest.fixture
def db(record: str) -> Iterator[Database]:
    migrate.upgrade(record)
    database = Database(record)
    with database.write() as session:
        session.add_all(Dataset(id=f"ds_{i}", name=f"d{i}", state="ready", source_sha256="0", created_at=T0) for i in range(2))
        session.flush()
        session.add_all(Model(id=f"mdl_{i}", name=f"m{i}", dataset_id=f"ds_{i}", state="fitting", spec={}, created_at=T0) for i in range(2))
    yield database
    database.close()


def submit(db: Database, number: int = 0, *, due: datetime | None = None, queue: Queue = "cpu") -> str:
    with db.write() as session:
        one = {"dataset_id": f"ds_{number}", "model_id": f"mdl_{number}"}
        return jobs.submit(session, kind="fit", method=None, now=T0, due_at=due, queue=queue, **one).id


def claim(db: Database, at: datetime = T0, **which: Any) -> Claim:
    held = claim_if_any(db, at, **which)
    assert held is not None
    return held


def claim_if_any(db: Database, at: datetime = T0, **which: Any) -> Claim | None:
    with db.write() as session:
        return jobs.claim(session, worker="w", now=at, lease=LEASE, **which)


def split(db: Database, held: Claim, parts: int = 3) -> None:
    with db.write() as session:
        jobs.split(session, held, [{"blocks": [[n, f"blob{n}"]]} for n in range(parts)], now=T0)


def finish(db: Database, held: Claim) -> None:
    with db.write() as session:
        outcomes.carried_out(session, held, OUTCOME, T0)


def parts_of(db: Database, root: str) -> list[Job]:
    with db.read() as session:
        return list(session.scalars(select(Job).where(Job.parent_id == root).order_by(Job.lane)))


def test_parts_are_taken_beside_their_running_job_by_workers_of_any_queue(db: Database) -> None:
    root = submit(db, queue="gpu")
    whole = claim(db)
    split(db, whole)

    taken = [claim(db, queue="cpu"), claim(db, queue="gpu"), claim(db, part_of=whole)]

    assert {t.kind for t in taken} == {"block"}
    assert len({t.job_id for t in taken}) == 3
    assert claim_if_any(db) is None
    with db.read() as session:
        tasks = [session.get_one(Job, t.job_id).task for t in taken]
        assert tasks == [{"blocks": [[n, f"blob{n}"]]} for n in range(3)]
        assert session.get_one(Job, root).state == "running"


def test_saying_twice_what_the_parts_are_makes_them_once(db: Database) -> None:
    root = submit(db)
    whole = claim(db)

    split(db, whole)
    split(db, whole)

    assert len(parts_of(db, root)) == 3


def test_a_worker_that_lost_the_job_cannot_split_it(db: Database) -> None:
    root = submit(db)
    whole = claim(db)
    with db.write() as session:
        jobs.sweep(session, now=T0 + 2 * LEASE, max_claims=50)

    with pytest.raises(LostLease):
        split(db, whole)

    assert parts_of(db, root) == []


ENDS: dict[str, Callable[[Any, Claim], object]] = {
    "done": lambda session, held: jobs.finish(session, held, state="done", now=T0),
    "failed": lambda session, held: outcomes.failed(session, held, {"code": "x"}, T0),
    "charged": lambda session, held: jobs.charge(session, held, now=T0, max_attempts=3, why="x"),
    "parked": lambda session, held: jobs.charge(session, held, now=T0, max_attempts=1, why="x"),
    "given back": lambda session, held: jobs.give_back(session, held, now=T0, why="x"),
    "cancelled": lambda session, held: jobs.cancel(session, held.job_id, now=T0),
    "lease lost": lambda session, held: jobs.sweep(session, now=T0 + 2 * LEASE, max_claims=50),
    "swept too often": lambda session, held: jobs.sweep(session, now=T0 + 2 * LEASE, max_claims=1),
}


@pytest.mark.parametrize("how", ENDS)
def test_whatever_ends_a_claim_ends_the_parts_it_made(db: Database, how: str) -> None:
    root = submit(db)
    whole = claim(db)
    split(db, whole)
    finish(db, claim(db, part_of=whole))
    running = claim(db, part_of=whole)

    with db.write() as session:
        ENDS[how](session, whole)

    ended = parts_of(db, root)
    assert [p.state for p in ended] == ["done", "cancelled", "cancelled"]
    assert [p.result for p in ended] == [None] * 3
    with pytest.raises(LostLease):
        finish(db, running)
    with db.read() as session:
        kinds = [[e.kind for e in jobs.events_after(session, p.id, 0)] for p in ended]
        assert session.get_one(Job, root).state != "running"
    assert kinds == [["queued", "claimed", "done"], ["queued", "claimed", "cancelled"], ["queued", "cancelled"]]


def test_a_lost_part_is_taken_again_alone(db: Database) -> None:
    root = submit(db)
    whole = claim(db)
    split(db, whole)
    finish(db, claim(db, part_of=whole))
    lost = claim(db, part_of=whole)
    later = T0 + 2 * LEASE
    with db.write() as session:
        jobs.renew(session, whole, now=later, lease=LEASE, phase="encoding rows", progress=0.5)
        jobs.sweep(session, now=later, max_claims=50)

    again = [claim(db, later, part_of=whole), claim(db, later, part_of=whole)]

    with pytest.raises(LostLease):
        finish(db, lost)
    assert (lost.job_id, 2) in [(a.job_id, a.fence) for a in again]
    assert [p.fence for p in parts_of(db, root)] == [1, 2, 1]
    assert [p.state for p in parts_of(db, root)] == ["done", "running", "running"]


def test_parts_of_an_earlier_claim_count_for_nothing(db: Database) -> None:
    submit(db)
    first = claim(db)
    split(db, first)
    finish(db, claim(db, part_of=first))
    with db.write() as session:
        jobs.give_back(session, first, now=T0, why="x")

    second = claim(db)
    split(db, second, parts=2)

    with db.read() as session:
        assert (second.job_id, second.fence) == (first.job_id, 2)
        assert jobs.parts(session, second) == {"queued": 2}
        assert jobs.results(session, second) == [None, None]


def test_what_a_part_made_is_kept_until_its_job_ends(db: Database) -> None:
    submit(db)
    whole = claim(db)
    split(db, whole, parts=1)

    finish(db, claim(db, part_of=whole))
    with db.read() as session:
        before = erasure.referenced(session)
    with db.write() as session:
        jobs.finish(session, whole, state="done", now=T0)
    with db.read() as session:
        after = erasure.referenced(session)

    assert before == {"rows", "sums"}
    assert after == set()


def test_blobs_of_a_part_are_named_after_the_claim_that_split_the_job(db: Database) -> None:
    root = submit(db)
    whole = claim(db)
    split(db, whole, parts=1)

    part = claim(db, part_of=whole)

    assert whole.stem == root
    assert part.stem == f"{root}-1-b000000"


def test_a_part_inherits_the_due_date_and_waits_for_other_jobs_unless_it_is_urgent(db: Database) -> None:
    def first_taken(due: datetime | None) -> str:
        submit(db, 0, due=due)
        whole = claim(db)
        split(db, whole, parts=1)
        submit(db, 1)
        taken = claim(db)
        for held in (taken, whole):
            with db.write() as session:
                jobs.finish(session, held, state="done", now=T0)
        while held := claim_if_any(db):
            with db.write() as session:
                jobs.finish(session, held, state="done", now=T0)
        return taken.kind

    taken = first_taken(None), first_taken(T0 + timedelta(days=1))

    assert taken == ("fit", "block")


def test_parts_count_neither_as_turns_nor_as_jobs_that_wait(db: Database) -> None:
    submit(db)
    whole = claim(db)
    split(db, whole)

    with db.read() as session:
        due = jobs.due(session, now=T0)
    text = Metrics(db).text().decode()

    assert due == {"cpu": 3}  # workers are told all the same
    assert 'expunge_queue_age_seconds{queue="cpu"} 0.0' in text
    assert all(p.model_id is None for p in parts_of(db, whole.job_id))


def test_a_part_that_fails_for_good_says_why(db: Database) -> None:
    submit(db)
    whole = claim(db)
    split(db, whole, parts=2)
    part = claim(db, part_of=whole)

    with db.write() as session:
        outcomes.failed(session, part, {"code": "label_unknown", "detail": "why"}, T0)

    with db.read() as session:
        assert jobs.failure(session, whole) == {"code": "label_unknown", "detail": "why"}
        assert session.get_one(Model, "mdl_0").state == "fitting"  # its job will say so
