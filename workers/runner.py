"""The runner: claims a job, has the child carry it out, says that it lives, and publishes; or finds the lease gone and drops everything."""

from __future__ import annotations

import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from sqlalchemy.orm import Session

from service import erasure, jobs, outcomes, presence, requests, turns
from service.blobs import StoreUnavailable
from service.db import OUTAGE, moment
from service.home import Home
from service.jobs import Claim, LostLease
from service.states import Queue
from workers import audit_signing, certify
from workers.plan import continued, plan_of
from workers.process import Child, ChildDied
from workers.pulse import Pulse

LOG = logging.getLogger("expunge.runner")

LOOK = 1.0
"""Seconds between two looks for jobs when no hint comes."""

AGAIN = 0.5
"""Seconds between two tries to write down a result while the database is away."""

GLANCE = 0.2
"""Seconds between two looks at the parts of a job that others have in hand."""

AWAY = (*OUTAGE, StoreUnavailable)
"""What a job cannot be charged with: a server that it needs does not answer."""


class Stopped(Exception):
    """This worker is told to end; the job is to go on elsewhere."""


class TimeUp(Exception):
    """The job has computed for longer than a job may."""


class Runner:
    """One worker: one child process, one job at a time."""

    def __init__(self, home: Home, hint: threading.Event, *, queue: Queue | None = None) -> None:
        """
        Args:
            hint: set when there may be something to do.
            queue: whose jobs to take. None: any, as the only worker there is.
        """
        self._home, self._hint, self._queue = home, hint, queue
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._child: Child | None = None
        self._stopping = False
        self._turn = threading.Lock()
        self._told = -math.inf

    def run(self) -> None:
        """Take jobs until told to stop. The hint only saves waiting: the table of jobs is asked all the same."""
        while not self._stopping:
            self._hint.clear()
            self.look()
            self._hint.wait(LOOK)
        with self._turn:  # another thread may be about to give its job back
            self._discard_child()
        self._leave()

    def look(self) -> None:
        """Take jobs until there is none. From several threads: one after another."""
        with self._turn:
            while not self._stopping and self._round():
                pass

    def stop(self) -> None:
        """End: a job in hand is given back at once, for another worker or the next start."""
        self._stopping = True
        self._hint.set()
        child = self._child
        if child is not None:
            child.nudge()

    def run_one(self) -> bool:
        """Claim one job and carry it out. False: there was none."""
        home = self._home
        with home.db.glance() as session:
            if not turns.any_due(session, now=moment(session), queue=self._queue):
                return False
        with home.db.write() as session:
            held = jobs.claim(session, worker=self._name, now=moment(session), lease=home.settings.lease, queue=self._queue)
            if held is None:
                return False
            if held.kind in ("forget", "erase"):
                requests.begin(session, held.job_id)
        self._perform(held, Pulse(home, held))
        return True

    def _perform(self, held: Claim, pulse: Pulse) -> None:
        """Carry out a claimed job, and leave it to nobody but the record, however that ends."""
        try:
            self._carry_out(held, pulse)
        except LostLease:
            LOG.warning("lost the lease of %s", held.job_id)
            self._discard_child()
        except Stopped:
            self._discard_child()
            self._give_back(held, "the worker ends", later=timedelta())
        except AWAY as error:
            LOG.error("%s waits for a server: %s", held.job_id, type(error).__name__)
            self._discard_child()
            self._give_back(held, type(error).__name__, later=jobs.BACKOFF)
        except TimeUp:
            self._discard_child()
            self._end_overdue(held)
        except ChildDied:
            LOG.warning("the child died on %s", held.job_id)
            self._discard_child()
            self._charge(held, "worker process died")
        except Exception as error:  # the job's boundary: one job's trouble must not end the runner, and its message may hold data
            LOG.error("%s could not be carried out: %s", held.job_id, type(error).__name__)
            self._discard_child()
            self._charge(held, type(error).__name__)
        # What this claim, or an earlier one that was killed, wrote and nobody published.
        erasure.sweep_claims(self._home, held)
        erasure.carry_out(self._home)

    def _round(self) -> bool:
        try:
            self._tell()
            return self._ready() and self.run_one()
        except Exception as error:  # the thread's boundary: the record could not be read or written; the next round tries again
            LOG.error("round failed: %s", type(error).__name__)
            return False

    def _carry_out(self, held: Claim, pulse: Pulse) -> None:
        with self._home.db.read() as session:
            plan = plan_of(session, self._home, held)
        outcome, before = self._ask(plan, pulse), list[Any]()
        while outcome is not None and "split" in outcome:
            begun = time.perf_counter()
            results = self._gather(pulse, outcome["split"], before)
            if results is None:
                return
            before += outcome["split"]["tasks"]
            plan = continued(plan, outcome, results, time.perf_counter() - begun)
            outcome = self._ask(plan, pulse)
        if outcome is not None:
            assert self._child is not None
            self._publish(held, outcome, self._child.hardware)

    def _ask(self, plan: dict[str, Any], pulse: Pulse) -> dict[str, Any] | None:
        """Have the child carry out a plan. None: it could not, and that is written down."""
        child, held = self._child, pulse.held
        assert child is not None
        child.send(plan)
        answer = self._attend(child, pulse)
        if "outcome" in answer:
            outcome: dict[str, Any] = answer["outcome"]
            return outcome
        if "failure" in answer:
            self._fail(held, answer["failure"])
        elif "away" in answer:
            raise StoreUnavailable(answer["away"])
        else:
            LOG.error("%s crashed: %s at %s", held.job_id, answer["crash"]["type"], answer["crash"]["where"])
            self._charge(held, answer["crash"]["type"])
        return None

    def _gather(self, pulse: Pulse, split: dict[str, Any], before: list[Any]) -> list[Any] | None:
        """Have the parts of a job carried out: by others who are free, and by this worker, which may be the only one.

        Returns what they made, in order; or None when one of them failed, and the job with it.

        Args:
            before: parts that the job was split into earlier, all of them done.

        Raises:
            LostLease: the job was cancelled or taken over; Stopped, TimeUp.
        """
        held, tasks, (first, last) = pulse.held, [*before, *split["tasks"]], split["span"]
        self._write(lambda session: jobs.split(session, held, tasks, now=moment(session)))
        while True:
            if self._stopping:
                raise Stopped
            if pulse.overdue:
                raise TimeUp
            try:
                with self._home.db.read() as session:
                    states, failure = jobs.parts(session, held), jobs.failure(session, held)
                    results = jobs.results(session, held)[len(before) :] if states["done"] == len(tasks) else None
                share = (states["done"] - len(before)) / len(split["tasks"])
                if pulse.beat(split["phase"], first + (last - first) * share):
                    self._tell()
                if failure is not None:
                    self._fail(held, failure)
                    return None
                warm = self._warm()
                if results and warm:
                    return results
                if not results and not (warm and states["queued"] and self._do_part(pulse)):
                    time.sleep(GLANCE)
            except OUTAGE:
                if pulse.stopped:
                    raise
                time.sleep(AGAIN)

    def _do_part(self, whole: Pulse) -> bool:
        """Carry out one part of the job in hand. False: none is left to take."""
        with self._home.db.write() as session:
            part = jobs.claim(session, worker=self._name, now=moment(session), lease=self._home.settings.lease, part_of=whole.held)
        if part is not None:
            self._perform(part, Pulse(self._home, part, whole=whole))
        return part is not None

    def _attend(self, child: Child, pulse: Pulse) -> dict[str, Any]:
        """Wait for the child's answer, renewing the lease all the while.

        Raises:
            LostLease: the job was cancelled or taken over; Stopped, TimeUp, ChildDied.
        """
        while True:
            message = child.receive(timeout=pulse.every)
            if message is not None and "checkpoint" in message:
                kept, message = message["checkpoint"], None
                self._write(lambda session, kept=kept: jobs.keep_checkpoint(session, pulse.held, kept, now=moment(session)))  # type: ignore[misc]
            if message is not None and "phase" not in message:
                return message
            if self._stopping:
                raise Stopped
            if pulse.overdue:
                raise TimeUp
            if pulse.beat(**(message or {})):
                self._tell()

    def _publish(self, held: Claim, outcome: dict[str, Any], hardware: dict[str, Any]) -> None:
        home = self._home
        if held.kind == "block":
            self._write(lambda session: outcomes.carried_out(session, held, outcome, moment(session)))
        elif held.kind == "validate":
            self._write(lambda session: outcomes.validated(session, held, outcome, moment(session)))
        elif held.kind == "audit":
            with home.db.read() as session:
                statement = audit_signing.certify_audit(session, home, held, outcome, hardware)
            self._write(lambda session: outcomes.audited(session, held, outcome, statement, moment(session)))
        elif outcome.get("nothing"):
            self._publish_nothing(held, outcome, hardware)
        else:
            begun = time.perf_counter()
            with home.db.read() as session:
                signed = certify.certify_version(session, home, held, outcome, hardware)
            outcome["seconds"]["certifying"] = round(time.perf_counter() - begun, 6)
            if held.kind == "fit":
                self._write(lambda session: outcomes.fitted(session, held, outcome, signed, moment(session)))
            else:
                self._write(lambda session: outcomes.forgotten(session, held, outcome, signed, moment(session), home.settings.rollback))

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
        self._write(lambda session: outcomes.nothing_gone(session, held, outcome, signed, moment(session)))

    def _write(self, outcome: Callable[[Session], None]) -> None:
        """Write a result down; again while the database is away, as long as the lease may last.

        A commit whose answer was lost may have taken place. Trying again is safe either way: the fence lets a result in once, and a
        second try of one that is in finds the lease gone.
        """
        until = time.monotonic() + self._home.settings.lease_seconds
        while True:
            try:
                with self._home.db.write() as session:
                    outcome(session)
                return
            except OUTAGE:
                if self._stopping or time.monotonic() > until:
                    raise
                time.sleep(AGAIN)

    def _fail(self, held: Claim, error: dict[str, Any]) -> None:
        self._write(lambda session: outcomes.failed(session, held, error, moment(session)))

    def _give_back(self, held: Claim, why: str, *, later: timedelta) -> None:
        try:
            with self._home.db.write() as session:
                jobs.give_back(session, held, now=moment(session), why=why, later=later)
        except (LostLease, *OUTAGE) as error:  # its lease will end, and give it back as well
            LOG.warning("%s is left to its lease: %s", held.job_id, type(error).__name__)

    def _end_overdue(self, held: Claim) -> None:
        hours = self._home.settings.job_seconds / 3600
        error = {"code": "time_limit", "detail": f"The job was ended after {hours:g} hours. Make it smaller, or raise EXPUNGE_JOB_SECONDS."}
        try:
            self._fail(held, error)
        except LostLease:
            LOG.warning("lost the lease of %s while ending it", held.job_id)

    def _charge(self, held: Claim, why: str) -> None:
        try:
            with self._home.db.write() as session:
                instant = moment(session)
                if jobs.charge(session, held, now=instant, max_attempts=self._home.settings.max_attempts, why=why):
                    outcomes.after_failure(session, held.job_id, {"code": "internal", "detail": "The worker failed repeatedly."}, instant)
        except LostLease:
            LOG.warning("lost the lease of %s while charging it", held.job_id)

    def _ready(self) -> bool:
        """Wait until a child is warm: before a claim, because importing torch can take longer than a lease. False: told to stop."""
        while not self._stopping:
            if self._warm():
                return True
            if self._child is None:
                return False
        return False

    def _warm(self) -> bool:
        """Whether a child is warm; starts one if there is none, and waits a moment for it."""
        if self._child is None or not self._child.alive:
            self._child = Child(self._home.settings)
        try:
            return self._child.ready(timeout=GLANCE)
        except ChildDied:
            LOG.error("the child died while starting")
            self._child = None
            return False

    def _tell(self) -> None:
        """Say that this worker lives, every few seconds, where there are others."""
        if self._queue is None or time.monotonic() - self._told < presence.EVERY.total_seconds():
            return
        self._told = time.monotonic()
        with suppress(*OUTAGE), self._home.db.write() as session:
            presence.seen(session, worker=self._name, queue=self._queue, now=moment(session))

    def _leave(self) -> None:
        if self._queue is not None:
            with suppress(*OUTAGE), self._home.db.write() as session:
                presence.gone(session, worker=self._name)

    def _discard_child(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None
