"""The dispatcher: hints workers at due jobs, gives back lost leases, destroys what is due. What was accepted never waits for a message."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from service import erasure, idempotency, jobs, outcomes
from service.blobs import BlobError
from service.db import now
from service.home import Home
from service.tables import Job

LOG = logging.getLogger("expunge.dispatcher")

PERIOD = 1.0
"""Seconds between two rounds when nobody wakes the dispatcher."""


class Dispatcher:
    """One thread's work beside the API. Any number of rounds, in any order, does no harm."""

    def __init__(self, home: Home, hint: Callable[[], None]) -> None:
        self._home, self._hint = home, hint
        self._stopping = threading.Event()

    def run(self) -> None:
        while not self._stopping.is_set():
            self._home.wake.wait(PERIOD)
            self._home.wake.clear()
            try:
                self.round()
            except (SQLAlchemyError, BlobError, OSError) as error:  # a full disk, a locked database: the next round tries again
                LOG.error("round failed: %s", type(error).__name__)

    def stop(self) -> None:
        self._stopping.set()
        self._home.wake.set()

    def round(self) -> None:
        self._hint()
        sweep(self._home, restarted=False)
        erasure.carry_out(self._home)


def recover(home: Home) -> None:
    """On start, alone on the data directory: give back every job that a dead process held, and sweep what it left behind."""
    sweep(home, restarted=True)
    with home.db.write() as session:
        idempotency.release_all(session)
    erasure.sweep_orphans(home)
    erasure.carry_out(home)


def sweep(home: Home, *, restarted: bool) -> None:
    with home.db.read() as session:
        if not jobs.any_lost(session, now=now(), restarted=restarted):
            return
    with home.db.write() as session:
        for job_id in jobs.sweep(session, now=now(), max_claims=home.settings.max_claims, restarted=restarted):
            job = session.get(Job, job_id)
            assert job is not None and job.error is not None
            outcomes.after_failure(session, job_id, job.error, now())
