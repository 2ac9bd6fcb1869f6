"""One seed, one schedule: clients ask, API processes, dispatchers and workers carry out and fail, and in the end all must be well."""

from __future__ import annotations

import atexit
import gc
import json
import logging
import random
import shutil
import sqlite3
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

import service.routes.forget as route
import workers.runner
from service import db, ids, jobs, migrate
from service.auth import SCOPES, Caller
from service.certificates import Signer, load_signer
from service.dispatcher import Dispatcher
from service.problem import Problem
from service.schemas import ForgetBody
from service.settings import Settings
from service.tables import Dataset, DatasetBlock, Model
from tests.simulation import invariants
from tests.simulation.computing import POISON, SPEC
from tests.simulation.invariants import Ask, Watcher
from tests.simulation.world import LEASE, ROLLBACK, T0, Faults, ProcessDied, SimulatedDatabase, World, drawn

SAMPLES = {"ds_a": [f"a{i}" for i in range(12)], "ds_b": [f"b{i}" for i in range(8)]}
MODELS = {"a-one": "ds_a", "a-two": "ds_a", "b": "ds_b"}
WORKERS = 3
LONGEST = 400.0
"""Simulated seconds after which whatever is not final counts as lost; retries and leases take far less."""
CALLER = Caller("client", frozenset(SCOPES))


@dataclass(frozen=True)
class Result:
    seed: int
    violation: str | None
    trace: str
    """Equal for equal seeds."""
    counts: dict[str, int]
    """Faults that struck, commits, requests, points, by name."""


@dataclass(frozen=True)
class Stage:
    """Where schedules are played, one after another: the same database file and engine, which keeps its compiled statements."""

    folder: Path
    db: SimulatedDatabase
    settings: Settings
    signer: Signer
    record: bytes
    """The database in which data sets and models are ready: where every schedule begins."""
    blobs: dict[str, bytes]
    keys: dict[str, bytes]

    @property
    def file(self) -> Path:
        return self.folder / "expunge.sqlite3"

    def set(self) -> None:
        """Put everything back to the beginning."""
        self.db.engine.dispose()
        for suffix in ("-wal", "-shm"):
            Path(f"{self.file}{suffix}").unlink(missing_ok=True)
        self.file.write_bytes(self.record)


def run(seed: int, *, faults: Faults | None = None, looks: bool = True) -> Result:
    """Play one schedule.

    Args:
        faults: None draws rates by the seed.
        looks: False makes the message the truth: hints are sent once and nobody looks into the record (a planted bug).
    """
    here = stage()
    here.set()
    with simulated() as enter, closing(sqlite3.connect(f"file:{here.file}?mode=ro", uri=True, check_same_thread=False)) as record:
        world = _world(seed, here)
        world.faults, world.looks = drawn(random.Random(seed)) if faults is None else faults, looks
        asks: list[Ask] = []
        world.watch = Watcher(record, asks)
        enter(world)
        _play(world, record, asks)
        if world.violation is None:
            with world.db.read() as session:
                try:
                    invariants.final(session, world, asks, SAMPLES)
                except AssertionError as error:
                    world.violate(str(error))
        counts = world.counts | {"commits": world.commits, "requests": len(asks), "points": world.baton.points}
        return Result(seed, world.violation, world.baton.trace, counts)


def _play(world: World, record: sqlite3.Connection, asks: list[Ask]) -> None:
    clients = [world.baton.spawn(f"client {n}", _guarded(world, _client, n, asks)) for n in range(world.random.randint(2, 4))]
    for number in range(WORKERS):
        world.baton.spawn(f"worker {number}", _guarded(world, _worker, number))
    for number in range(world.random.randint(1, 2)):
        world.baton.spawn(f"dispatcher {number}", _guarded(world, _dispatcher))
    storm, over = world.random.uniform(5, 20), [False]

    def referee(world: World) -> None:
        while not over[0]:
            world.baton.sleep(1.0, "referee")
            if world.baton.clock > storm and all(c.ended for c in clients):
                world.calm()
                moment = world.now().replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")
                over[0] = invariants.at_rest(record, moment)
            if world.baton.clock > LONGEST:
                world.violate("something accepted is still not final: lost")

    world.baton.spawn("referee", _guarded(world, referee))
    world.baton.run(until=lambda: over[0] or world.violation is not None)


def _guarded(world: World, work: Callable[..., None], *arguments: Any) -> Callable[[], None]:
    def guarded() -> None:
        try:
            work(world, *arguments)
        except Exception as error:  # an actor that ends by surprise would only look like a slow one
            world.violate(f"{work.__name__} ended with {type(error).__name__}: {error}")

    return guarded


def _client(world: World, number: int, asks: list[Ask]) -> None:
    for turn in range(world.random.randint(1, 3)):
        world.baton.sleep(world.random.random() * 5)
        model = world.random.choice(list(MODELS))
        names = world.random.sample(SAMPLES[MODELS[model]], world.random.randint(1, 2))
        if world.random.random() < 0.05:
            names = [POISON]
        ask = Ask(f"c{number}-{turn}", model, names, method="retrain" if world.random.random() < 0.3 else "exact")
        asks.append(ask)
        ask.request = _insist(world, lambda ask=ask: _post(world, ask))["id"]
        if world.random.random() < 0.15:
            world.baton.sleep(world.random.random() * 2)
            ask.cancelled = "tried"
            with_answer = _insist(world, lambda ask=ask: _cancel(world, ask))
            ask.cancelled = with_answer.get("cancelled", "tried")


def _insist(world: World, call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a careful client does: the same request with the same key until there is an answer."""
    while True:
        try:
            with world.process():
                return call()
        except (ProcessDied, OperationalError):
            world.baton.sleep(world.random.random() * 2, "retry")


def _post(world: World, ask: Ask) -> dict[str, Any]:
    body = ForgetBody.model_validate(
        {"model": ask.model, "forget": {"kind": "samples", "ids": ask.ids}, "reference": ask.reference, "method": ask.method}
    )
    answer = route.forget(body, world.home(), CALLER, ask.reference)
    return dict(json.loads(answer.body))


def _cancel(world: World, ask: Ask) -> dict[str, Any]:
    assert ask.request is not None
    try:
        route.cancel(ask.request, world.home(), CALLER)
    except Problem as problem:
        # Ended meanwhile, perhaps by an earlier try whose answer was lost; or carried out together with others'.
        return {"cancelled": "tried" if problem.code == "request_ended" else "no"}
    return {"cancelled": "yes"}


def _worker(world: World, number: int) -> None:
    while True:
        try:
            with world.process():
                hint: Any = world.listen(number)
                workers.runner.Runner(world.home(), hint, queue="cpu").run()
        except ProcessDied:
            world.baton.sleep(world.random.random() * 3, "down")


def _dispatcher(world: World) -> None:
    while True:
        try:
            with world.process():
                dispatcher = Dispatcher(world.home(), world.send_hint if world.looks else lambda: None)
                while True:
                    with suppress(OperationalError):  # as `Dispatcher.run` does
                        dispatcher.round()
                    world.baton.sleep(1.0, "round done")
        except ProcessDied:
            world.baton.sleep(world.random.random() * 3, "down")


# Where schedules begin ------------------------------------------------------------------------------------------------


@cache
def stage() -> Stage:
    """Data sets and models, fitted by the service itself in a world without faults. Made once a process."""
    folder = Path(tempfile.mkdtemp(prefix="simulation-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    url = f"sqlite:///{folder / 'expunge.sqlite3'}"
    migrate.upgrade(url)
    settings = Settings(data_dir=folder, lease_seconds=LEASE, max_attempts=3, rollback_days=ROLLBACK / 86400)
    bare = Stage(folder, SimulatedDatabase(url), settings, load_signer(folder / "signing.pem"), b"", {}, {})
    with simulated() as enter:
        world = _world(0, bare)
        enter(world)
        with world.db.write() as session:
            _furnish(session, world)
        with closing(sqlite3.connect(bare.file, check_same_thread=False)) as record:
            world.baton.spawn("worker", _guarded(world, _worker, 0))
            world.baton.run(until=lambda: record.execute("SELECT count(*) FROM versions").fetchone()[0] == len(MODELS))
            bare.db.engine.dispose()
            record.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert world.violation is None, world.violation
    # What is there by now stays: the collector need not walk through a million objects of libraries again and again.
    gc.collect()
    gc.freeze()
    return replace(bare, record=bare.file.read_bytes(), blobs=world.blobs, keys=world.keys)


def _furnish(session: Session, world: World) -> None:
    for dataset, names in SAMPLES.items():
        index, block = (world.vault.put(f"{dataset}-{n}", json.dumps(names).encode()).blob_id for n in ("index", "block"))
        summary = {"shape": [1], "text_labels": True, "attributes": {}}
        session.add(Dataset(id=dataset, name=dataset, state="ready", source_sha256="0" * 64, created_at=T0,
                            index_blob=index, summary=summary))  # fmt: skip
        session.flush()
        session.add(DatasetBlock(dataset_id=dataset, number=0, blob=block, rows=len(names)))
    for name, dataset in MODELS.items():
        session.add(Model(id=f"mod_{name}", name=name, dataset_id=dataset, state="fitting", spec=SPEC, created_at=T0))
        session.flush()
        jobs.submit(session, kind="fit", dataset_id=dataset, model_id=f"mod_{name}", method=None, now=T0)


def _world(seed: int, here: Stage) -> World:
    return World(seed, here.db, here.settings, here.signer, blobs=dict(here.blobs), keys=dict(here.keys))


@contextmanager
def simulated() -> Iterator[Callable[[World], None]]:
    """The service's clock, names and child process are the world's within the block. Yields how to say which world."""
    now: list[World] = []
    real_now = db.now
    before: list[tuple[Any, str, Any]] = []

    def put(owner: Any, name: str, value: Any) -> None:
        before.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    def enter(world: World) -> None:
        now[:] = [world]

    def clock() -> float:
        return now[0].monotonic()

    timepiece = types.SimpleNamespace(monotonic=clock, perf_counter=clock, sleep=lambda seconds: now[0].baton.sleep(seconds))
    for name, module in list(sys.modules.items()):
        if name.startswith(("service.", "workers.")):
            if getattr(module, "now", None) is real_now:
                put(module, "now", lambda: now[0].now())
            if name.startswith("workers.") and hasattr(module, "time"):
                put(module, "time", timepiece)
    put(ids, "new", lambda prefix: now[0].name(prefix))
    put(workers.runner, "Child", lambda *a, **k: now[0].child())
    quiet = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield enter
    finally:
        logging.disable(quiet)
        for owner, name, value in reversed(before):
            setattr(owner, name, value)
