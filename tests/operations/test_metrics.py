"""Metrics: what they count is what the record holds, whoever asks."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import insert
from sqlalchemy.orm import Session

from service import jobs, metrics, presence
from service.db import Database, now
from service.metrics import Metrics
from service.tables import Dataset, Event, Model, Request, Shred
from tests.live import Live

LEASE = timedelta(seconds=15)


def told(db: Database) -> dict[tuple[str, ...], float]:
    """A fresh process's answer: (name, label values...) -> value."""
    return parsed(Metrics(db).text().decode())


def parsed(text: str) -> dict[tuple[str, ...], float]:
    families = list(text_string_to_metric_families(text))
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples if not s.name.endswith("_created")}


def dataset(session: Session, name: str) -> str:
    session.add(Dataset(id=name, name=name, state="ready", source_sha256="", created_at=now()))
    session.add(Model(id=f"m-{name}", name=f"m-{name}", dataset_id=name, state="ready", spec={}, created_at=now()))
    session.flush()
    return name


def submit(session: Session, name: str, at: datetime) -> jobs.Job:
    return jobs.submit(session, kind="forget", dataset_id=name, model_id=f"m-{name}", method="exact", now=at)


def request(number: int, due: datetime, **more: Any) -> Request:
    row = {"id": f"req-{number}", "model_id": "m-a", "caller": "c", "kind": "samples", "method": "exact", "why": "", "state": "received"}
    return Request(**(row | {"received_at": now(), "due_at": due} | more))


def test_an_empty_record_counts_zero_of_everything(db: Database) -> None:
    found = told(db)

    assert found[("expunge_jobs", "forget", "queued")] == 0
    assert found[("expunge_queue_age_seconds", "cpu")] == found[("expunge_queue_age_seconds", "gpu")] == 0
    assert found[("expunge_leases_lost_total",)] == found[("expunge_versions_total",)] == 0
    assert found[("expunge_workers", "cpu")] == 0
    assert set(found.values()) == {0}


def test_jobs_their_waiting_lost_leases_and_seconds_a_phase_are_counted(db: Database) -> None:
    start = now() - timedelta(minutes=10)
    with db.write() as session:
        names = [dataset(session, name) for name in "abc"]
        for minutes, name in enumerate(names):
            submit(session, name, start + timedelta(minutes=minutes))
    with db.write() as session:
        lost = jobs.claim(session, worker="w1", now=start + timedelta(minutes=3), lease=LEASE)
    with db.write() as session:
        assert jobs.sweep(session, now=start + timedelta(minutes=4), max_claims=50) == []
    with db.write() as session:
        done = jobs.claim(session, worker="w2", now=now(), lease=LEASE)
        assert lost and done and done.job_id != lost.job_id
        jobs.finish(session, done, state="done", now=now(), version=2, seconds={"load": 0.25, "solve": 1.5})
        other = jobs.claim(session, worker="w2", now=now(), lease=LEASE)
        assert other
        jobs.finish(session, other, state="done", now=now(), version=2, seconds={"solve": 0.5})

    found = told(db)

    assert found[("expunge_jobs", "forget", "done")] == 2
    assert found[("expunge_jobs", "forget", "queued")] + found[("expunge_jobs", "forget", "running")] == 1
    assert found[("expunge_leases_lost_total",)] == 1
    assert found[("expunge_queue_age_seconds", "gpu")] == 0
    assert 300 < found[("expunge_queue_age_seconds", "cpu")] < 700
    assert found[("expunge_phase_seconds_sum", "forget", "solve")] == 2.0
    assert found[("expunge_phase_seconds_count", "forget", "solve")] == 2
    assert found[("expunge_phase_seconds_sum", "forget", "load")] == 0.25


def test_requests_near_their_due_date_are_counted_until_they_end(db: Database) -> None:
    with db.write() as session:
        dataset(session, "a")
        session.add_all(request(i, now() + timedelta(hours=hours)) for i, hours in enumerate([-1, 12, 60, 100, 400]))
        session.add(request(9, now() - timedelta(days=1), state="fulfilled", finished_at=now()))

    found = told(db)

    assert [found[("expunge_requests_near_due", within)] for within in ("overdue", "1d", "3d", "7d")] == [1, 2, 3, 4]
    assert found[("expunge_requests", "received")] == 5
    assert found[("expunge_requests", "fulfilled")] == 1


def test_what_should_be_destroyed_by_now_is_counted_with_its_age(db: Database) -> None:
    moment = datetime.now(UTC)
    with db.write() as session:
        session.add(Shred(blob="late", what="", due_at=moment - timedelta(hours=1)))
        session.add(Shred(blob="later", what="", due_at=moment + timedelta(hours=1)))
        session.add(Shred(blob="done", what="", due_at=moment - timedelta(hours=2), done_at=moment))

    found = told(db)

    assert found[("expunge_shreds_due",)] == 1
    assert 3600 <= found[("expunge_shreds_due_age_seconds",)] < 3700


def test_a_worker_counts_while_it_says_that_it_lives(db: Database) -> None:
    with db.write() as session:
        presence.seen(session, worker="lives", queue="cpu", now=now())
        presence.seen(session, worker="also", queue="cpu", now=now())
        presence.seen(session, worker="silent", queue="cpu", now=now() - timedelta(minutes=1))
        presence.seen(session, worker="left", queue="gpu", now=now())
    with db.write() as session:
        presence.seen(session, worker="lives", queue="cpu", now=now())
        presence.gone(session, worker="left")

    found = told(db)

    assert (found[("expunge_workers", "cpu")], found[("expunge_workers", "gpu")]) == (2, 0)


def test_a_long_record_is_counted_in_well_under_a_second_and_not_at_every_question(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 20_000
    with db.write() as session:
        dataset(session, "a")
        row = {"kind": "forget", "lane": "a", "dataset_id": "a", "model_id": "m-a", "state": "done", "run_after": now(),
               "created_at": now(), "finished_at": now(), "seconds": {"load": 0.5, "solve": 0.25}}  # fmt: skip
        session.execute(insert(jobs.Job), [row | {"id": f"job-{i}"} for i in range(rows)])
        session.execute(insert(Event), [{"job_id": f"job-{i}", "at": now(), "kind": "phase", "data": {}} for i in range(rows)])

    counting = Metrics(db)
    begun = time.perf_counter()
    first = counting.text()
    took = time.perf_counter() - begun
    with db.write() as session:
        presence.seen(session, worker="new", queue="cpu", now=now())
    second = counting.text()
    monkeypatch.setattr(metrics, "KEPT", 0.0)
    third = counting.text()

    assert parsed(first.decode())[("expunge_phase_seconds_sum", "forget", "load")] == rows / 2
    assert took < 2
    assert second == first != third


def test_the_service_answers_with_its_counts_and_with_no_name(live: Live) -> None:
    answer = live.client.get("/metrics", headers={"Authorization": ""})

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert parsed(answer.text)[("expunge_jobs", "validate", "done")] >= 1
    assert "digits" not in answer.text
