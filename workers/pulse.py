"""A pulse: the sign of life of one job in hand, which keeps its lease, and says how far it is."""

from __future__ import annotations

import time

from sqlalchemy.orm import Session

from service import jobs
from service.db import OUTAGE, moment
from service.home import Home
from service.jobs import Claim

HEARTBEAT = 1.0
"""Seconds between two signs of life; well below the lease, and how soon a cancelled job's child is killed."""


class Pulse:
    """Of one claim. While a part of it is carried out by the same worker, the part's pulse keeps both alive."""

    def __init__(self, home: Home, held: Claim, *, whole: Pulse | None = None) -> None:
        """
        Args:
            whole: of the job that this one is a part of, if this worker has that in hand, too.
        """
        self.held = held
        self._home, self._whole = home, whole
        self._phase, self._progress = "starting", 0.0
        self._began = self._renewed = time.monotonic()
        self._told = 0.0

    @property
    def every(self) -> float:
        """Seconds between two signs of life."""
        return min(HEARTBEAT, self._home.settings.lease_seconds / 3)

    @property
    def overdue(self) -> bool:
        """Whether this claim has computed for longer than a job may."""
        return time.monotonic() - self._began > self._home.settings.job_seconds

    @property
    def stopped(self) -> bool:
        """Whether there was no sign of life for longer than the lease lasts."""
        return time.monotonic() - self._renewed > self._home.settings.lease_seconds

    def beat(self, phase: str | None = None, progress: float = 0.0) -> bool:
        """Say that the work goes on, if it is time to, or if another phase began. Whether anything was said.

        Raises:
            LostLease: the job was cancelled or taken over.
        """
        changed = phase is not None and phase != self._phase
        if phase is not None:
            self._phase, self._progress = phase, progress
        if not changed and time.monotonic() - self._told < self.every:
            return False
        self._told = time.monotonic()
        alive = [self._whole, self] if self._whole else [self]
        try:
            with self._home.db.write() as session:
                for pulse in alive:
                    pulse._renew(session)
        except OUTAGE:  # the lease outlives a restart of the database; only its end ends the work
            if self.stopped:
                raise
            return False
        for pulse in alive:
            pulse._renewed = time.monotonic()
        return True

    def _renew(self, session: Session) -> None:
        jobs.renew(session, self.held, now=moment(session), lease=self._home.settings.lease, phase=self._phase, progress=self._progress)
