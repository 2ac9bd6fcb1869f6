"""Which job is taken next: the urgent by their due date, the rest in turn, each by the workers of its queue."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from service import auth, jobs, migrate, requests, turns
from service.addressee import addressee
from service.db import Database
from service.jobs import Claim, LostLease
from service.schemas import ForgetBody
from service.states import Queue
from service.tables import Dataset, Job, Model

T0 = datetime(2026, 1, 31, 12, tzinfo=UTC)
LEASE = timedelta(seconds=15)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


@pytest.fixture
def db(record: str) -> Iterator[Database]:
    """Three models, each on a data set of its own, and a fourth on the first one's."""
    migrate.upgrade(record)
    database = Database(record)
    with database.write() as session:
        session.add_all(Dataset(id=f"ds_{i}", name=f"d{i}", state="ready", source_sha256="0", created_at=T0) for i in range(3))
        session.flush()
        for name, dataset in (("a", 0), ("b", 1), ("c", 2), ("d", 0)):
            session.add(Model(id=name, name=name, dataset_id=f"ds_{dataset}", state="ready", spec={}, created_at=T0))
    yield database
    database.close()


def submit(db: Database, model: str, at: datetime, *, due: datetime | None = None, queue: Queue = "cpu") -> str:
    with db.write() as session:
        found = session.get_one(Model, model)
        job = jobs.submit(session, kind="fit", dataset_id=found.dataset_id, model_id=model, method=None, now=at, due_at=due, queue=queue)
        return job.id


def claim(db: Database, at: datetime, queue: Queue | None = None) -> Claim | None:
    with db.write() as session:
        return jobs.claim(session, worker="w", now=at, lease=LEASE, queue=queue)


def order(db: Database, at: datetime) -> list[str]:
    """The models in the order in which one worker carries their jobs out, a minute each."""
    found = []
    while held := claim(db, at):
        with db.write() as session:
            jobs.finish(session, held, state="done", now=at)
            found.append(str(session.get_one(Job, held.job_id).model_id))
        at += MINUTE
    return found


def test_a_model_with_many_jobs_leaves_the_others_their_turn(db: Database) -> None:
    for n in range(4):
        submit(db, "a", T0 + n * timedelta(seconds=1))
    submit(db, "b", T0 + timedelta(seconds=10))
    submit(db, "b", T0 + timedelta(seconds=11))

    assert order(db, T0 + timedelta(seconds=30)) == ["a", "b", "a", "b", "a", "a"]


def test_jobs_of_different_models_are_taken_as_they_came(db: Database) -> None:
    for n, model in enumerate("cba"):
        submit(db, model, T0 + n * timedelta(seconds=1))

    assert order(db, T0 + MINUTE) == ["c", "b", "a"]


def test_what_must_be_answered_within_a_week_goes_first_and_the_earliest_due_before_the_rest(db: Database) -> None:
    submit(db, "a", T0, due=T0 + 30 * DAY)
    submit(db, "b", T0 + MINUTE, due=T0 + 6 * DAY)
    submit(db, "c", T0 + 2 * MINUTE, due=T0 + 2 * DAY)

    assert order(db, T0 + 3 * MINUTE) == ["c", "b", "a"]


def test_what_is_not_due_soon_becomes_urgent_as_its_day_comes(db: Database) -> None:
    submit(db, "a", T0)
    submit(db, "b", T0 + MINUTE, due=T0 + 30 * DAY)

    first, second = claim(db, T0 + 24 * DAY), claim(db, T0 + 24 * DAY)

    assert first is not None and second is not None
    with db.read() as session:
        assert [session.get_one(Job, held.job_id).model_id for held in (first, second)] == ["b", "a"]


def test_workers_take_the_jobs_of_their_queue_alone(db: Database) -> None:
    for_cpu, for_gpu = submit(db, "a", T0), submit(db, "b", T0, queue="gpu")

    with db.read() as session:
        waiting = jobs.due(session, now=T0)
    taken = [claim(db, T0, "gpu"), claim(db, T0, "gpu"), claim(db, T0, "cpu"), claim(db, T0, "cpu")]

    assert waiting == {"cpu": 1, "gpu": 1}
    assert [held and held.job_id for held in taken] == [for_gpu, None, for_cpu, None]


def test_a_look_finds_what_a_claim_would_take(db: Database) -> None:
    submit(db, "a", T0 + MINUTE)
    submit(db, "d", T0 + MINUTE)
    submit(db, "b", T0 + MINUTE, queue="gpu")
    queues: tuple[Queue | None, ...] = ("cpu", "gpu", None)

    def look(at: datetime) -> list[bool]:
        with db.glance() as session:
            return [turns.any_due(session, now=at, queue=queue) for queue in queues]

    early, later = look(T0), look(T0 + MINUTE)
    assert claim(db, T0 + MINUTE, "cpu") is not None  # "d" waits for it: they share a data set
    without_cpu = look(T0 + MINUTE)
    assert claim(db, T0 + MINUTE) is not None
    nothing = look(T0 + MINUTE)

    assert early == [False, False, False]
    assert later == [True, True, True]
    assert without_cpu == [False, True, True]
    assert nothing == [False, False, False]


def test_only_jobs_that_could_be_begun_now_are_counted_as_due_one_a_data_set(db: Database) -> None:
    submit(db, "a", T0)
    submit(db, "d", T0)
    submit(db, "b", T0 + DAY)
    submit(db, "c", T0)
    submit(db, "c", T0)
    assert claim(db, T0) is not None

    with db.read() as session:
        now, tomorrow = (jobs.due(session, now=at) for at in (T0, T0 + DAY))

    assert now == {"cpu": 1}
    assert tomorrow == {"cpu": 2}


def test_a_job_given_back_can_be_taken_at_once_and_is_not_charged(db: Database) -> None:
    submit(db, "a", T0)
    held = claim(db, T0)
    assert held is not None

    with db.write() as session:
        jobs.give_back(session, held, now=T0, why="the worker ends")
    again = claim(db, T0)

    assert again is not None and (again.job_id, again.fence) == (held.job_id, 2)
    with db.read() as session:
        assert session.get_one(Job, held.job_id).attempt == 0
    with pytest.raises(LostLease), db.write() as session:
        jobs.give_back(session, held, now=T0, why="the worker ends")


def test_a_job_that_waits_for_a_server_is_taken_a_moment_later(db: Database) -> None:
    submit(db, "a", T0)
    held = claim(db, T0)
    assert held is not None

    with db.write() as session:
        jobs.give_back(session, held, now=T0, why="OperationalError", later=jobs.BACKOFF)

    assert claim(db, T0) is None
    assert claim(db, T0 + jobs.BACKOFF) is not None


def test_a_claim_that_was_lost_cannot_take_hold_of_its_job(db: Database) -> None:
    submit(db, "a", T0)
    held = claim(db, T0)
    assert held is not None
    with db.write() as session:
        jobs.hold(session, held)
        jobs.sweep(session, now=T0 + 2 * LEASE, max_claims=50)

    with pytest.raises(LostLease), db.write() as session:
        jobs.hold(session, held)
    assert claim(db, T0 + 2 * LEASE) is not None


@pytest.mark.parametrize(
    ("spec", "method", "queue"),
    [
        ({"core": "train"}, "exact", "cpu"),
        ({"core": "train"}, "retrain", "gpu"),
        ({"core": "train", "linearize": "all"}, "cg", "gpu"),
        ({"core": "train", "linearize": "all"}, "sgd", "gpu"),
    ],
)
def test_what_passes_through_a_network_waits_for_those_who_train(db: Database, spec: dict[str, str], method: str, queue: str) -> None:
    body = ForgetBody.model_validate({"model": "a", "forget": {"kind": "samples", "ids": ["x"]}, "method": method})
    with db.write() as session:
        session.get_one(Model, "a").spec = spec
        key, _ = auth.create(session, name="k", scopes=list(auth.SCOPES), now=T0)
        caller = auth.Caller(key.id, frozenset(key.scopes))
    with db.write() as session:
        model, _ = addressee(session, body.model)
        asked, _ = requests.receive(session, caller, model, body, body_blob="b", now=T0, training_queue="gpu")

    with db.read() as session:
        assert session.get_one(Job, asked.job).queue == queue
