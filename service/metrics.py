"""Metrics for Prometheus, all counted from the record: every API process gives the same answer, and a restart forgets nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric
from sqlalchemy import Float, case, cast, column, func, null, select, true
from sqlalchemy.orm import Session

from service import presence
from service.db import Database, moment
from service.states import FINAL_REQUEST, JobKind, JobState, Queue, RequestState
from service.tables import Event, Job, Request, Shred, Version

KEPT = 5.0
"""Seconds for which one answer stands: counting a long record costs more than anybody needs to know it better."""

NEAR = {"overdue": timedelta(0), "1d": timedelta(days=1), "3d": timedelta(days=3), "7d": timedelta(days=7)}
"""How near the due date of a request that has not ended may be; each count includes those before it."""

FAMILIES = {
    "expunge_leases_lost_total": ("lease_lost", "Jobs taken from a worker that gave no sign of life."),
    "expunge_given_back_total": ("given_back", "Jobs that a worker handed back by itself: it was stopped, or its database was away."),
    "expunge_retries_total": ("retry", "Failures charged to jobs that were begun again."),
}


class Metrics:
    """What `/metrics` answers. Counts, ages and names of our own: no model's, data set's or person's."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._lock = threading.Lock()
        self._text, self._at = b"", float("-inf")
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self) -> bytes:
        """The exposition format, at most `KEPT` seconds old."""
        with self._lock:
            if time.monotonic() - self._at > KEPT:
                self._text, self._at = generate_latest(self._registry), time.monotonic()
            return self._text

    def collect(self) -> Iterator[Metric]:
        """Called by the registry; one read of one moment."""
        with self._db.read() as session:
            instant = moment(session)
            yield from _jobs(session)
            yield _waiting(session, instant)
            yield from _events(session)
            yield _phases(session)
            yield from _requests(session, instant)
            yield from _erasure(session, instant)
            workers = GaugeMetricFamily("expunge_workers", "Worker processes that gave a sign of life of late.", labels=["queue"])
            present = presence.present(session, now=instant)
            for queue in get_args(Queue):
                workers.add_metric([queue], present.get(queue, 0))
            yield workers


def _jobs(session: Session) -> Iterator[Metric]:
    by_state = select(Job.kind, Job.state, func.count()).group_by(Job.kind, Job.state)
    counted = {(kind, state): number for kind, state, number in session.execute(by_state)}
    jobs = GaugeMetricFamily("expunge_jobs", "Jobs, by what they do and how far they are.", labels=["kind", "state"])
    for kind in get_args(JobKind):
        for state in get_args(JobState):
            jobs.add_metric([kind, state], counted.get((kind, state), 0))
    yield jobs


def _waiting(session: Session, moment: datetime) -> Metric:
    # Parts wait for idle hands, while their job is at work: that they do so says nothing of the queue.
    due = select(Job.queue, func.min(Job.run_after)).where(Job.state == "queued", Job.run_after <= moment, Job.parent_id.is_(None))
    oldest = dict(session.execute(due.group_by(Job.queue)).all())
    age = GaugeMetricFamily("expunge_queue_age_seconds", "How long the oldest due job has waited; 0 where none waits.", labels=["queue"])
    for queue in get_args(Queue):
        age.add_metric([queue], _age(oldest.get(queue), moment))
    return age


def _events(session: Session) -> Iterator[Metric]:
    kinds = [kind for kind, _ in FAMILIES.values()]
    counted = dict(session.execute(select(Event.kind, func.count()).where(Event.kind.in_(kinds)).group_by(Event.kind)).all())
    for name, (kind, text) in FAMILIES.items():
        yield CounterMetricFamily(name, text, value=counted.get(kind, 0))


def _phases(session: Session) -> Metric:
    """Seconds by phase, added up by the database from what each finished job wrote down."""
    postgresql = session.get_bind().dialect.name == "postgresql"
    each, type_of = (func.json_each_text, func.json_typeof) if postgresql else (func.json_each, func.json_type)
    # A job without seconds may hold NULL or JSON's null, and PostgreSQL refuses to take a null apart.
    written = case((type_of(Job.seconds) == "object", Job.seconds), else_=null())
    phase = each(written).table_valued(column("key"), column("value"))
    spent = (
        select(Job.kind, phase.c.key, func.count(), func.sum(cast(phase.c.value, Float)))
        .select_from(Job)
        .join(phase, true())
        .group_by(Job.kind, phase.c.key)
        .order_by(Job.kind, phase.c.key)
    )
    seconds = SummaryMetricFamily("expunge_phase_seconds", "Seconds that jobs spent in each phase of their work.", labels=["kind", "phase"])
    for kind, name, count, total in session.execute(spent):
        seconds.add_metric([kind, name], count_value=count, sum_value=total)
    return seconds


def _requests(session: Session, moment: datetime) -> Iterator[Metric]:
    counted = dict(session.execute(select(Request.state, func.count()).group_by(Request.state)).all())
    requests = GaugeMetricFamily("expunge_requests", "Requests to forget, by state.", labels=["state"])
    for state in get_args(RequestState):
        requests.add_metric([state], counted.get(state, 0))
    yield requests
    open_ = [state for state in get_args(RequestState) if state not in FINAL_REQUEST]
    near = GaugeMetricFamily("expunge_requests_near_due", "Requests that have not ended, by how near their due date is.", labels=["within"])
    for within, span in NEAR.items():
        number = session.scalar(select(func.count()).select_from(Request).where(Request.state.in_(open_), Request.due_at < moment + span))
        near.add_metric([within], number or 0)
    yield near


def _erasure(session: Session, moment: datetime) -> Iterator[Metric]:
    waiting = select(func.count(), func.min(Shred.due_at)).where(Shred.done_at.is_(None), Shred.due_at <= moment)
    number, first = session.execute(waiting).one()
    yield GaugeMetricFamily("expunge_shreds_due", "Blobs whose key should be destroyed by now and is not.", value=number)
    yield GaugeMetricFamily("expunge_shreds_due_age_seconds", "How long the first of them has been due.", value=_age(first, moment))
    versions = session.scalar(select(func.count()).select_from(Version))
    yield CounterMetricFamily("expunge_versions_total", "Versions published, each with its certificate.", value=versions or 0)


def _age(since: datetime | None, moment: datetime) -> float:
    return max(0.0, (moment - since).total_seconds()) if since else 0.0
