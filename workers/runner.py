"""The runner: claims a job, has the child carry it out, says that it lives, and publishes; or finds the lease gone and drops everything."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from typing import Any

from service import erasure, jobs, outcomes, requests
from service.db import now
from service.home import Home
from service.jobs import Claim, LostLease
from workers import certify
from workers.plan import plan_of, prefix_of_job
from workers.process import Child, ChildDied

LOG = logging.getLogger("expunge.runner")

HEARTBEAT = 1.0
"""Seconds between two signs of life; well below the lease, and how soon a cancelled job's child is killed."""


class Runner:
    """One worker: one child process, one job at a time."""

    def __init__(self, home: Home, hint: threading.Event) -> None:
        self._home, self._hint = home, hint
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._child: Child | None = None
        self._stopping = False

    def run(self) -> None:
        """Take jobs until told to stop. The hint only saves waiting: the table of jobs is asked at least once a second."""
        while not self._stopping:
            self._hint.clear()
            try:
                busy = self._ready() and self.run_one()
            except Exception as error:  # the thread's boundary: the record could not be read or written; the next round tries again
                LOG.error("round failed: %s", type(error).__name__)
                busy = False
            if not busy:
                self._hint.wait(1.0)
        if self._child:
            self._child.kill()

    def stop(self) -> None:
        self._stopping = True
        self._hint.set()

    def run_one(self) -> bool:
        """Claim one job and carry it out. False: there was none."""
        home = self._home
        with home.db.write() as session:
            held = jobs.claim(session, worker=self._name, now=now(), lease=home.settings.lease)
            if held is None:
                return False
            if held.kind == "forget":
                requests.begin(session, held.job_id)
        try:
            self._carry_out(held)
        except LostLease:
            LOG.warning("lost the lease of %s", held.job_id)
            self._discard_child()
        except ChildDied:
            LOG.warning("the child died on %s", held.job_id)
            self._discard_child()
            self._charge(held, "worker process died")
        except Exception as error:  # the job's boundary: one job's trouble must not end the runner, and its message may hold data
            LOG.error("%s could not be carried out: %s", held.job_id, type(error).__name__)
            self._discard_child()
            self._charge(held, type(error).__name__)
        # What this claim, or an earlier one that was killed, wrote and nobody published.
        erasure.sweep_orphans(home, prefix=prefix_of_job(held.job_id))
        erasure.carry_out(home)
        return True

    def _carry_out(self, held: Claim) -> None:
        child = self._child
        assert child is not None
        with self._home.db.read() as session:
            plan = plan_of(session, self._home, held)
        child.send(plan)
        answer = self._attend(held, child)
        if "outcome" in answer:
            self._publish(held, answer["outcome"], child.hardware)
        elif "failure" in answer:
            with self._home.db.write() as session:
                outcomes.failed(session, held, answer["failure"], now())
        else:
            LOG.error("%s crashed: %s at %s", held.job_id, answer["crash"]["type"], answer["crash"]["where"])
            self._charge(held, answer["crash"]["type"])

    def _attend(self, held: Claim, child: Child) -> dict[str, Any]:
        """Wait for the child's answer, renewing the lease all the while.

        Raises:
            LostLease: the job was cancelled or taken over, or this worker is to stop; ChildDied.
        """
        told, phase, progress = 0.0, "starting", 0.0
        while True:
            message = child.receive(timeout=min(HEARTBEAT, self._home.settings.lease_seconds / 3))
            if message is not None and "phase" not in message:
                return message
            if self._stopping:  # the job stays the record's: whoever starts the service again takes it up
                raise LostLease(held.job_id)
            changed = message is not None and message["phase"] != phase
            if message is not None:
                phase, progress = message["phase"], message["progress"]
            if changed or time.monotonic() - told >= min(HEARTBEAT, self._home.settings.lease_seconds / 3):
                told = time.monotonic()
                with self._home.db.write() as session:
                    jobs.renew(session, held, now=now(), lease=self._home.settings.lease, phase=phase, progress=progress)

    def _publish(self, held: Claim, outcome: dict[str, Any], hardware: dict[str, Any]) -> None:
        home, db = self._home, self._home.db
        if held.kind == "validate":
            with db.write() as session:
                outcomes.validated(session, held, outcome, now())
        elif outcome.get("nothing"):
            self._publish_nothing(held, outcome, hardware)
        else:
            begun = time.perf_counter()
            with db.read() as session:
                signed = certify.certify_version(session, home, held, outcome, hardware)
            outcome["seconds"]["certifying"] = round(time.perf_counter() - begun, 6)
            with db.write() as session:
                if held.kind == "fit":
                    outcomes.fitted(session, held, outcome, signed, now())
                else:
                    outcomes.forgotten(session, held, outcome, signed, now(), home.settings.rollback)

    def _publish_nothing(self, held: Claim, outcome: dict[str, Any], hardware: dict[str, Any]) -> None:
        counts = outcome["facts"]["dispositions"]
        signed = None
        if counts.get("core_sample") and set(counts) == {"core_sample"}:
            outcome["refusal"] = {
                "code": "core_sample",
                "detail": "Every sample asked for belongs to the core, which this method cannot change. Ask again with method retrain.",
            }
        if "refusal" in outcome:
            with self._home.db.read() as session:
                signed = certify.certify_refusal(session, self._home, held, outcome, hardware)
        with self._home.db.write() as session:
            outcomes.nothing_gone(session, held, outcome, signed, now())

    def _charge(self, held: Claim, why: str) -> None:
        try:
            with self._home.db.write() as session:
                if jobs.charge(session, held, now=now(), max_attempts=self._home.settings.max_attempts, why=why):
                    outcomes.after_failure(session, held.job_id, {"code": "internal", "detail": "The worker failed repeatedly."}, now())
        except LostLease:
            LOG.warning("lost the lease of %s while charging it", held.job_id)

    def _ready(self) -> bool:
        """Wait until a child is warm: before a claim, because importing torch can take longer than a lease. False: told to stop."""
        if self._child is None or not self._child.alive:
            self._child = Child(self._home.settings)
        while not self._stopping:
            try:
                if self._child.ready(timeout=0.2):
                    return True
            except ChildDied:
                LOG.error("the child died while starting")
                self._child = None
                return False
        return False

    def _discard_child(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None
