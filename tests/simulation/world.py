"""A simulated installation: API processes, a dispatcher and workers around one real database, and everything that can go wrong."""

from __future__ import annotations

import heapq
import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from service.ahead import Ahead
from service.blobs import Vault
from service.certificates import Signer
from service.db import Database
from service.home import Home
from service.settings import Settings
from tests.simulation.baton import Actor, Baton, Killed
from tests.simulation.computing import SimulatedChild
from tests.simulation.memory import MemoryBlobs, MemoryKeys

T0 = datetime(2026, 1, 31, 12, tzinfo=UTC)
LEASE = 3.0
ROLLBACK = 20.0
"""Seconds; a withdrawn version's weights may fall due within a schedule, or not."""


@dataclass(frozen=True)
class Faults:
    """How often each thing goes wrong: each schedule draws its own rates, so that some faults strike alone and some together."""

    crash: float = 0.0
    """Of a process, at a point between two steps."""
    crash_at_commit: float = 0.0
    """Half of them just before the database has committed, half just after."""
    unknown: float = 0.0
    """Of a commit, that the connection breaks and nobody is told how it ended; half of them were carried out."""
    pause: float = 0.0
    """Of a process, at a point: it sleeps for up to three leases and goes on as if nothing had been."""
    child: float = 0.0
    """Of a child's process, at a message."""
    hint_lost: float = 0.0
    hint_twice: float = 0.0


def drawn(draw: Any) -> Faults:
    """Rates for one schedule: each fault is left out of half of all schedules."""

    def rate(highest: float) -> float:
        return draw.random() * highest if draw.random() < 0.5 else 0.0

    return Faults(crash=rate(0.02), crash_at_commit=rate(0.1), unknown=rate(0.15), pause=rate(0.03), child=rate(0.08),
                  hint_lost=rate(1.0), hint_twice=rate(0.8))  # fmt: skip


class SimulatedDatabase(Database):
    """The real database; between its transactions anybody may go first, and any of them may end in any way."""

    _world: World

    def play(self, world: World) -> None:
        self._world = world

    @contextmanager
    def read(self) -> Iterator[Session]:
        self._world.baton.point("read")
        with super().read() as session:
            yield session

    @contextmanager
    def glance(self) -> Iterator[Session]:
        self._world.baton.point("glance")
        with super().glance() as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        world = self._world
        world.baton.point("write")
        with world.baton.undivided():
            fate = world.fate_of_commit()
            with super().write() as session:
                yield session
                session.flush()
                if fate == "crash before":
                    world.kill()
                if fate == "unknown, undone":
                    raise broken()
            world.commits += 1
            world.observe()
            if fate == "crash after":
                world.kill()
            if fate == "unknown, done":
                raise broken()
        world.baton.point("written")


def broken() -> OperationalError:
    """What a driver says when the connection breaks during a commit: nothing about how it ended."""
    return OperationalError("COMMIT", {}, Exception("the connection was lost"))


class Hint:
    """A worker's hint, as a `threading.Event` that waits in simulated time."""

    def __init__(self, world: World) -> None:
        self._world, self._set, self._owner = world, False, world.baton.holder

    def clear(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        if self._owner is not None:
            self._owner.wake = self._world.baton.clock

    def wait(self, timeout: float | None = None) -> bool:
        if not self._set:
            self._world.baton.sleep(timeout if self._world.looks and timeout is not None else 1e6, "idle")
        return self._set


@dataclass
class World:
    """One schedule's installation. Everything random comes from the baton's seed."""

    seed: int
    db: SimulatedDatabase
    settings: Settings
    signer: Signer
    faults: Faults = field(default_factory=Faults)
    looks: bool = True
    """Whether a worker looks for work by itself now and then, and the dispatcher hints again and again."""
    violation: str | None = None
    commits: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    watch: Callable[[World], None] = lambda world: None
    """Called after each commit; raises `AssertionError`."""
    blobs: dict[str, bytes] = field(default_factory=dict)
    keys: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.baton = Baton(self.seed)
        self.random = self.baton.random
        self.db.play(self)
        self.vault = Vault(MemoryBlobs(self.baton.point, self.blobs), MemoryKeys(self.baton.point, self.keys))
        self._hints: list[tuple[float, int]] = []
        self._listening: dict[int, Hint] = {}
        self._names = 0
        self._lock = io.StringIO()
        self.baton.strike = self.strike

    # What the service asks of its surroundings -----------------------------------------------------------------------

    def now(self) -> datetime:
        return T0 + timedelta(seconds=self.baton.clock)

    def monotonic(self) -> float:
        self.deliver()
        return self.baton.clock

    perf_counter = monotonic

    def name(self, prefix: str) -> str:
        self._names += 1
        return f"{prefix}_{int(self.now().timestamp() * 1000):012x}{self._names:04x}{self.random.getrandbits(48):012x}"

    def home(self) -> Home:
        """What one process holds: its own locks around the shared record."""
        return Home(self.settings, self.db, self.vault, Ahead(self.vault, 0), self.signer, b"s" * 32, lock=self._lock, wake=Wake(self))

    def child(self, *_: Any, **__: Any) -> SimulatedChild:
        def dies() -> bool:
            return self.happens("child died", self.faults.child)

        return SimulatedChild(self.monotonic, lambda s: self.baton.sleep(s, "child"), lambda: self.random.random() * 1.2, self.vault, dies)

    # Hints -----------------------------------------------------------------------------------------------------------

    def listen(self, number: int) -> Hint:
        self._listening[number] = Hint(self)
        return self._listening[number]

    def send_hint(self) -> None:
        """To one worker or another; perhaps late, so that later ones overtake it; perhaps twice; perhaps never."""
        copies = 0 if self.happens("hint lost", self.faults.hint_lost) else 2 if self.happens("hint doubled", self.faults.hint_twice) else 1
        for _ in range(copies):
            heapq.heappush(self._hints, (self.baton.clock + self.random.random() * 2, self.random.randrange(3)))

    def deliver(self) -> None:
        while self._hints and self._hints[0][0] <= self.baton.clock:
            _, number = heapq.heappop(self._hints)
            if number in self._listening:
                self._listening[number].set()

    # Faults ----------------------------------------------------------------------------------------------------------

    def happens(self, what: str, rate: float) -> bool:
        if rate <= 0 or self.random.random() >= rate:
            return False
        self.counts[what] = self.counts.get(what, 0) + 1
        return True

    def strike(self, actor: Actor, where: str) -> None:
        self.deliver()
        if self.happens("crash", self.faults.crash):
            self.kill()
        if self.happens("pause", self.faults.pause):
            actor.wake = self.baton.clock + self.random.random() * 3 * LEASE

    def fate_of_commit(self) -> str:
        actor = self.baton.holder
        if actor is None or not actor.mortal:
            return "fine"
        if self.happens("crash at commit", self.faults.crash_at_commit):
            return self.random.choice(("crash before", "crash after"))
        if self.happens("commit unknown", self.faults.unknown):
            return self.random.choice(("unknown, undone", "unknown, done"))
        return "fine"

    def kill(self) -> None:
        assert self.baton.holder is not None
        self.baton.holder.dead = True
        raise Killed

    def calm(self) -> None:
        """From here on nothing goes wrong any more."""
        self.faults = replace(Faults())

    @contextmanager
    def process(self) -> Iterator[None]:
        """A process of its own within the block; whoever is outside of it sees only that it died, as `ProcessDied`."""
        actor = self.baton.holder
        assert actor is not None
        actor.mortal, actor.dead = True, False
        try:
            yield
        except Killed:
            if not actor.dead:
                raise  # the schedule is over
            raise ProcessDied from None
        finally:
            actor.mortal, actor.dead = False, False

    def observe(self) -> None:
        try:
            self.watch(self)
        except AssertionError as error:
            self.violate(str(error))

    def violate(self, what: str) -> None:
        self.violation = self.violation or f"{self.baton.clock:.2f} s: {what}"


class ProcessDied(Exception):
    """Seen from outside: the connection closed without an answer."""


class Wake(threading.Event):
    """Set by the API after a commit: the dispatcher, wherever it runs, sends a hint."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def set(self) -> None:
        self._world.send_hint()
