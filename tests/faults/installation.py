"""A distributed installation to break: servers of its own, an API process, workers, small models, and clients that insist."""

from __future__ import annotations

import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from service.blobs import open_vault
from service.db import Database
from service.states import FINAL_JOB, FINAL_REQUEST
from service.tables import Job, Request
from tests.digits import Digits, digits, parquet, renamed
from tests.faults.audit import Found, audit
from tests.live import Cluster
from tests.servers import Server, private_postgres, private_redis

CORE, AUDIT, USER = 60, 40, 200
PATIENCE = 180.0
"""Seconds within which everything accepted must have ended once the fault is over."""


def small() -> Digits:
    """A few hundred digits: a model of them is fitted in about a second, and forgets in a tenth."""
    data = digits()
    picked = [*data.of(role="core")[:CORE], *data.of(role="audit")[:AUDIT], *data.of(role="user")[:USER]]
    return data.without(set(data.ids) - set(picked))


class Installation(Cluster):
    """An API process and workers on servers of their own; whatever is accepted is remembered until the audit."""

    def __init__(self, directory: Path, postgres: Server, redis: Server, *, workers: int = 2, **settings: str) -> None:
        self.postgres, self.redis = postgres, redis
        self.accepted: list[str] = []
        self.kills = 0
        self._left: dict[str, list[str]] = {}
        self.locations: dict[str, str] = {}
        self._lock = threading.Lock()
        settings = {"lease_seconds": "3"} | settings
        super().__init__(directory, database_url=postgres.url, redis_url=redis.url, workers=workers, **settings)

    # What there is to forget ------------------------------------------------------------------------------------------

    def furnish(self, models: int = 1, *, datasets: int = 1) -> None:
        """Upload data sets and fit models `m0`, `m1`, ... on them in turn."""
        data = small()
        for number in range(datasets):
            self.upload(f"d{number}", parquet(renamed(data, f"d{number}-"), self.directory / "data.parquet"))
        body = {"architecture": {"name": "linear"}, "training": {"epochs": 1}, "expected_rows": USER, "ridge": 10.0}
        asked = [self.client.post("/models", json=body | {"name": f"m{i}", "dataset": f"d{i % datasets}"}) for i in range(models)]
        for number, answer in enumerate(asked):
            self.job(answer)
            self._left[f"m{number}"] = [f"d{number % datasets}-{s}" for s in data.of(role="user")]

    def ask(self, model: str = "m0", *, ids: list[str] | None = None, method: str = "auto", client: httpx.Client | None = None) -> str:
        """Ask for one more sample to be forgotten: the same request under the same key until it is answered. Returns its id."""
        with self._lock:
            ids = ids or [self._left[model].pop()]
        key = f"{model}/{ids[0]}"[:64]
        body = {"model": model, "forget": {"kind": "samples", "ids": ids}, "method": method, "reference": key}
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                answer = (client or self.client).post("/forget", json=body, headers={"Idempotency-Key": key}, timeout=20)
            except httpx.HTTPError:
                time.sleep(0.1)
                continue
            if answer.status_code == 202:
                request: str = answer.json()["id"]
                with self._lock:
                    self.accepted.append(request)
                    self.locations[request] = answer.headers["Location"]
                return request
            assert answer.status_code >= 500 or answer.status_code in (409, 429), answer.text
            time.sleep(0.1)
        raise AssertionError("the request was never accepted")

    # What breaks it ---------------------------------------------------------------------------------------------------

    def kill_worker(self, number: int | None = None, *, again: bool = True) -> None:
        """kill -9 a worker, any one of them if `number` is None; its child goes with it."""
        worker = self.workers.pop(random.randrange(len(self.workers)) if number is None else number)
        worker.kill()
        worker.wait()
        self.kills += 1
        if again:
            self.start_worker()

    def kill_api(self) -> None:
        self.kill()
        self.kills += 1
        self.start()

    def children(self) -> list[psutil.Process]:
        """The processes that compute."""
        found = []
        for worker in self.workers:
            with suppress(psutil.NoSuchProcess):
                found += psutil.Process(worker.pid).children()
        return found

    def holder(self) -> subprocess.Popen[bytes]:
        """The worker that has a job in hand."""
        found: subprocess.Popen[bytes] = self.wait(self.held_by)
        return found

    def held_by(self) -> subprocess.Popen[bytes] | None:
        """The same, if there is one now: a killed worker's name stands in the row until the lease ends."""
        name = self.running() or ""
        return next((w for w in self.workers if name.endswith(f":{w.pid}")), None)

    def running(self) -> str | None:
        with self.record() as session:
            return session.scalars(select(Job.worker).where(Job.state == "running")).first()

    # What is seen -----------------------------------------------------------------------------------------------------

    @contextmanager
    def record(self) -> Iterator[Any]:
        database = Database(self.postgres.url, connections=1)
        try:
            with database.read() as session:
                yield session
        finally:
            database.close()

    def wait(self, condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
        """What the condition gives once it holds."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, f"it did not happen in time; the log ends:\n{self.log[-1500:]}"
            time.sleep(0.02)
        return found

    def rest(self, seconds: float = PATIENCE) -> None:
        """Wait until nothing is left to do."""

        def idle() -> bool:
            time.sleep(0.1)
            with suppress(DBAPIError), self.record() as session:
                jobs = session.scalars(select(Job.id).where(Job.state.not_in(FINAL_JOB)).limit(1)).first()
                return (
                    jobs is None and session.scalars(select(Request.id).where(Request.state.not_in(FINAL_REQUEST)).limit(1)).first() is None
                )
            return False

        self.wait(idle, seconds)

    def events(self, kind: str) -> int:
        from sqlalchemy import func

        from service.tables import Event

        with self.record() as session:
            return int(session.scalar(select(func.count()).select_from(Event).where(Event.kind == kind)))

    def audited(self, *, may_fail: tuple[str, ...] = ()) -> Found:
        """Come to rest, then look the record through."""
        self.rest()
        keys = self.directory / "keys" / "blobs"
        vault = open_vault(self.settings.get("blobs", "postgres:"), keys, data_dir=self.directory / "data", database_url=self.postgres.url)
        return audit(self.postgres.url, vault, self.accepted, may_fail=may_fail)


@contextmanager
def installed(directory: Path, *, workers: int = 2, redis_up: bool = True, **settings: str) -> Iterator[Installation]:
    """An installation on fresh servers, stopped afterwards whatever happened to it."""
    with ExitStack() as stack:
        postgres, redis = stack.enter_context(private_postgres()), stack.enter_context(private_redis())
        if not redis_up:
            redis.kill()
        there = Installation(directory, postgres, redis, workers=workers, **settings)
        try:
            yield there
        finally:
            for worker in there.workers:
                with suppress(ProcessLookupError):
                    worker.send_signal(signal.SIGCONT)
            there.stop()
