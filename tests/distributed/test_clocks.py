"""One clock for all: a machine whose own is wrong neither loses its leases nor takes those of others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import service.db
from service import jobs
from service.db import Database, moment
from service.jobs import Claim
from service.routes.jobs import shown
from service.tables import Dataset, Job

LEASE = timedelta(seconds=15)
WRONG = [timedelta(hours=-3), timedelta(days=40)]


@pytest.fixture(params=WRONG, ids=str)
def wrong(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, db: Database) -> Iterator[timedelta]:
    """This process is on a machine whose clock is so far off; one job waits."""
    with db.write() as session:
        session.add(Dataset(id="ds", name="d", state="ready", source_sha256="0", created_at=moment(session)))
        session.flush()
        jobs.submit(session, kind="validate", dataset_id="ds", model_id=None, method=None, now=moment(session))
    off: timedelta = request.param
    monkeypatch.setattr(service.db, "now", lambda: datetime.now(UTC) + off)
    yield off


def claimed(db: Database) -> Claim | None:
    with db.write() as session:
        return jobs.claim(session, worker="w", now=moment(session), lease=LEASE)


def test_the_clock_is_the_databases_and_in_one_process_the_machines(db: Database, wrong: timedelta) -> None:
    alone = Database("sqlite://")

    with db.read() as session, alone.read() as own:
        shared, local = moment(session), moment(own)

    assert abs(shared - datetime.now(UTC)) < timedelta(minutes=1)
    assert abs(local - datetime.now(UTC) - wrong) < timedelta(minutes=1)


def test_a_machine_with_a_wrong_clock_claims_keeps_and_ends_a_job(db: Database, wrong: timedelta, monkeypatch: pytest.MonkeyPatch) -> None:
    held = claimed(db)
    assert held is not None
    monkeypatch.undo()  # the one that sweeps is right

    with db.write() as session:
        swept = jobs.any_lost(session, now=moment(session), restarted=False)
        left = session.get_one(Job, held.job_id).lease_until
    with db.write() as session:
        jobs.renew(session, held, now=moment(session), lease=LEASE, phase="x", progress=0.5)
        jobs.finish(session, held, state="done", now=moment(session))

    assert not swept
    assert left is not None and abs(left - datetime.now(UTC) - LEASE) < timedelta(seconds=10)


def test_a_machine_with_a_wrong_clock_takes_no_lease_that_lives(db: Database, wrong: timedelta, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as right:
        right.setattr(service.db, "now", lambda: datetime.now(UTC))
        held = claimed(db)
    assert held is not None

    with db.write() as session:
        parked = jobs.sweep(session, now=moment(session), max_claims=1)
        state = session.get_one(Job, held.job_id).state

    assert parked == [] and state == "running"


def test_no_decision_between_processes_is_made_by_a_machines_own_clock() -> None:
    """Whatever has a session asks it for the time; the machine's own clock is for logs, names, and telling how far off it is."""
    root = Path(service.db.__file__).parents[1]
    sources = {
        path.relative_to(root).as_posix(): path.read_text() for part in ("service", "workers") for path in (root / part).rglob("*.py")
    }

    local = {name for name, text in sources.items() if re.search(r"from service\.db import .*\bnow\b", text)}

    assert local == {"service/checks.py"}


def test_how_long_a_job_still_takes_is_told_by_the_databases_clock(db: Database, wrong: timedelta) -> None:
    held = claimed(db)
    assert held is not None
    with db.write() as session:
        jobs.renew(session, held, now=moment(session), lease=LEASE, phase="x", progress=0.5)

    with db.read() as session:
        left = shown(session, held.job_id).eta_seconds

    assert left is not None and 0 <= left < 60
