"""The dispatcher: hints workers at due jobs, gives back lost leases, destroys what is due. What was accepted never waits for a message."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from sqlalchemy.exc import SQLAlchemyError

from service import erasure, idempotency, jobs, outcomes
from service.blobs import BlobError
from service.db import moment
from service.home import Home
from service.leader import Leader
from service.tables import Job

LOG = logging.getLogger("expunge.dispatcher")

PERIOD = 1.0
"""Seconds between two rounds when nobody wakes the dispatcher."""

BREATH = 0.2
"""Seconds between two rounds however often it is woken, where several processes serve: the rounds are for all of them."""

HOUSEKEEPING = 600.0
"""Seconds between two looks for what dead processes left."""

ABANDONED = timedelta(hours=6)
"""An upload or an ended job this old has no live process any more."""


class Dispatcher:
    """One thread's work beside the API. Any number of rounds, in any order, does no harm."""

    def __init__(self, home: Home, hint: Callable[[], None], *, leader: Leader | None = None) -> None:
        """
        Args:
            hint: tells whoever carries jobs out that some may be due.
            leader: of several processes one does the rounds; the others only pass on that something came. None: there is no other.
        """
        self._home, self._hint, self._leader = home, hint, leader
        self._stopping = threading.Event()
        self._kept = time.monotonic()

    def run(self) -> None:
        while not self._stopping.is_set():
            woken = self._home.wake.wait(PERIOD)
            self._home.wake.clear()
            try:
                self.round(woken=woken)
            except (SQLAlchemyError, BlobError, OSError) as error:  # a full disk, a locked database: the next round tries again
                LOG.error("round failed: %s", type(error).__name__)
            if self._leader is not None:
                self._stopping.wait(BREATH)
        if self._leader is not None:
            self._leader.resign()

    def stop(self) -> None:
        self._stopping.set()
        self._home.wake.set()

    def round(self, *, woken: bool = True) -> None:
        leads = self._leader is None or self._leader.leads()
        if leads or woken:
            self._hint()
        if not leads:
            return
        sweep(self._home, restarted=False)
        erasure.carry_out(self._home)
        if self._leader is not None and time.monotonic() - self._kept >= HOUSEKEEPING:
            self._kept = time.monotonic()
            keep_house(self._home)


def recover(home: Home) -> None:
    """On start, alone on the data directory: give back every job that a dead process held, and sweep what it left behind."""
    sweep(home, restarted=True)
    with home.db.write() as session:
        idempotency.release_all(session)
    erasure.sweep_orphans(home)
    erasure.carry_out(home)


def keep_house(home: Home) -> None:
    """Where other processes are at work: free the keys and sweep the blobs of those that are surely gone."""
    with home.db.write() as session:
        idempotency.release_all(session, before=moment(session) - ABANDONED)
    erasure.sweep_abandoned(home, ABANDONED)


def sweep(home: Home, *, restarted: bool) -> None:
    with home.db.read() as session:
        if not jobs.any_lost(session, now=moment(session), restarted=restarted):
            return
    with home.db.write() as session:
        instant = moment(session)
        for job_id in jobs.sweep(session, now=instant, max_claims=home.settings.max_claims, restarted=restarted):
            job = session.get(Job, job_id)
            assert job is not None and job.error is not None
            outcomes.after_failure(session, job_id, job.error, instant)
