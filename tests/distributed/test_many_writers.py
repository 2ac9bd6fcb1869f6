"""Many processes write one record on PostgreSQL: what two must not do at once is done by one after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select

from expunge import merkle
from service import auth, jobs, log, outcomes, requests
from service.addressee import addressee
from service.auth import Caller
from service.db import Database
from service.jobs import LostLease
from service.leader import Leader
from service.problem import Problem
from service.schemas import ForgetBody
from service.tables import Dataset, Job, LogLeaf, Model, Request

T0 = datetime(2026, 3, 1, tzinfo=UTC)
LEASE = timedelta(seconds=15)
BODY = ForgetBody.model_validate({"model": "m0", "forget": {"kind": "samples", "ids": ["a"]}})


@pytest.fixture
def caller(db: Database) -> Caller:
    """Two data sets, a ready model on each, and somebody who may ask."""
    with db.write() as session:
        for i in range(2):
            session.add(Dataset(id=f"ds_{i}", name=f"d{i}", state="ready", source_sha256="0", created_at=T0))
        session.flush()
        for i in range(2):
            session.add(Model(id=f"mdl_{i}", name=f"m{i}", dataset_id=f"ds_{i}", state="ready", spec={"core": "train"}, created_at=T0))
        key, _ = auth.create(session, name="k", scopes=list(auth.SCOPES), now=T0)
        return Caller(key.id, frozenset(key.scopes))


def at_once(number: int, work: Callable[[int], object]) -> list[object]:
    """Do the same in so many threads that begin together."""
    gate = threading.Barrier(number)

    def begin(i: int) -> object:
        gate.wait()
        return work(i)

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(begin, range(number)))


def ask(db: Database, caller: Caller, name: str) -> str:
    with db.write() as session:
        model, _ = addressee(session, BODY.model)
        return requests.receive(session, caller, model, BODY, body_blob=name, now=T0)[0].id


def test_requests_that_come_together_join_one_job(db: Database, caller: Caller) -> None:
    at_once(16, lambda i: ask(db, caller, f"up_{i}"))

    with db.read() as session:
        assert session.scalar(select(func.count()).select_from(Request)) == 16
        assert session.scalar(select(func.count()).select_from(Job)) == 1


def test_no_request_joins_a_job_that_was_claimed_meanwhile(db: Database, caller: Caller) -> None:
    """A request that the claim did not see would never be carried out."""
    carried: list[str] = []
    done = threading.Event()

    def work() -> None:
        while not done.is_set() or _queued(db):
            with db.write() as session:
                held = jobs.claim(session, worker="w", now=T0, lease=LEASE)
                seen = [r.id for r in requests.of_job(session, held.job_id)] if held else []
            if held:
                with db.write() as session:
                    jobs.finish(session, held, state="done", now=T0)
                carried.extend(seen)

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    asked = at_once(8, lambda i: [ask(db, caller, f"up_{i}_{n}") for n in range(25)])
    done.set()
    for worker in workers:
        worker.join()

    accepted = [request for group in asked for request in group]  # type: ignore[attr-defined]
    assert len(accepted) == 200
    assert sorted(carried) == sorted(accepted)


def _queued(db: Database) -> bool:
    with db.read() as session:
        return session.scalars(select(Job.id).where(Job.state == "queued")).first() is not None


def test_a_request_cancelled_while_others_join_takes_no_other_request_with_it(db: Database, caller: Caller) -> None:
    for n in range(10):
        first = ask(db, caller, f"up_{n}")

        def step(i: int, first: str = first, n: int = n) -> object:
            if i:
                return ask(db, caller, f"up_{n}_{i}")
            with db.write() as session:
                return requests.cancel(session, first, T0).id

        at_once(3, step)
        with db.read() as session:
            waiting = session.execute(select(Job.state).join(Request, Request.job_id == Job.id).where(Request.state == "received")).all()
        assert {state for (state,) in waiting} == {"queued"}
        with db.write() as session:
            while held := jobs.claim(session, worker="w", now=T0, lease=LEASE):
                for request in requests.of_job(session, held.job_id):
                    request.state = "failed"
                jobs.finish(session, held, state="failed", now=T0)


def test_a_job_ends_published_or_cancelled_and_never_both(db: Database, caller: Caller) -> None:
    ends = []
    for n in range(20):
        request = ask(db, caller, f"up_{n}")
        with db.write() as session:
            held = jobs.claim(session, worker="w", now=T0, lease=LEASE)
        assert held is not None

        def step(i: int, request: str = request, held: jobs.Claim = held) -> str:
            try:
                with db.write() as session:
                    if i:
                        requests.cancel(session, request, T0)
                        return "cancelled"
                    outcome = {"requests": {request: {"dispositions": {"counts": {}}}}, "seconds": {}}
                    outcomes.nothing_gone(session, held, outcome, None, T0)
                    return "done"
            except (Problem, LostLease):
                return "too late"

        said = at_once(2, step)
        with db.read() as session:
            state = session.get_one(Job, held.job_id).state
        assert sorted(map(str, said)) == sorted([state, "too late"])
        ends.append(state)

    assert set(ends) <= {"done", "cancelled"}


def test_leaves_that_come_together_are_appended_one_after_another(db: Database) -> None:
    def append(i: int) -> None:
        for n in range(5):
            with db.write() as session:
                size, root, path = log.append(session, f"{i}-{n}".encode(), T0)
                assert len(path) < 10 and size > 0 and root

    at_once(8, append)

    with db.read() as session:
        leaves = session.scalars(select(LogLeaf).order_by(LogLeaf.index)).all()
        hashes = log.leaf_hashes(session)
    assert [leaf.index for leaf in leaves] == list(range(40))
    peaks, size = [], 0
    for leaf in leaves:
        grown = merkle.append(peaks, size, leaf.leaf)
        peaks, size = list(grown.peaks), size + 1
    assert grown.root == merkle.root(hashes)


def test_two_workers_never_begin_two_jobs_of_one_data_set(db: Database, caller: Caller) -> None:
    with db.write() as session:
        for n in range(24):
            jobs.submit(session, kind="validate", dataset_id=f"ds_{n % 2}", model_id=None, method=None, now=T0)

    def work(i: int) -> int:
        done = 0
        while _queued(db):
            with db.write() as session:
                held = jobs.claim(session, worker=f"w{i}", now=T0, lease=LEASE)
            if held:
                with db.read() as session:
                    running = session.scalars(select(Job.lane).where(Job.state == "running")).all()
                assert len(running) == len(set(running))
                with db.write() as session:
                    jobs.finish(session, held, state="done", now=T0)
                done += 1
        return done

    counts = at_once(4, work)

    assert sum(map(int, counts)) == 24  # type: ignore[call-overload]


def test_one_process_leads_and_another_takes_over_when_its_connection_ends(database_url: str, db: Database) -> None:
    first, second = Leader(database_url, "x"), Leader(database_url, "x")

    before = (first.leads(), second.leads(), first.leads())
    with db.engine.connect() as connection:
        connection.exec_driver_sql("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
    lost = first.leads()
    taken = second.leads()
    second.resign()
    again = first.leads()
    first.resign()

    assert before == (True, False, True)
    assert (lost, taken, again) == (False, True, True)
