"""One thread at a time: actors that pass a baton in an order, and on a clock, that the seed alone decides."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STEP = 0.01
"""Simulated seconds that pass, at most, between two points."""


class Killed(BaseException):
    """The process that this actor plays was killed. Not an Exception: nothing in the service may catch it."""


def _shut() -> threading.Lock:
    """What one thread waits at until another lets it through, once. A bare lock: a semaphore's hand-over costs several times as much."""
    gate = threading.Lock()
    gate.acquire()
    return gate


class Actor:
    """One thread of control: it runs only while it holds the baton."""

    def __init__(self, name: str, body: Callable[[], None]) -> None:
        self.name, self.wake, self.dead, self.ended = name, 0.0, False, False
        self.whole = 0
        """Above 0 while nothing may come between: inside a transaction that holds the write lock."""
        self.mortal = False
        """Whether faults may strike here: inside a simulated process."""
        self.turn = _shut()
        self.thread = threading.Thread(target=body, name=name, daemon=True)


class Baton:
    """Runs actors by turns. Every choice is drawn from `random`, so that a seed is a schedule."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.clock, self.points = 0.0, 0
        self.actors: list[Actor] = []
        self.holder: Actor | None = None
        self.strike: Callable[[Actor, str], None] = lambda actor, where: None
        """Called at each point of a mortal actor; may put it to sleep or kill it."""
        self._until: Callable[[], bool] = lambda: True
        self._done = _shut()
        self._ending = False
        self._trace = hashlib.sha256()

    def spawn(self, name: str, work: Callable[[], None]) -> Actor:
        def body() -> None:
            actor.turn.acquire()
            try:
                if not self._ending:
                    work()
            except Killed:
                pass
            actor.ended = True
            self._let(self._next())

        actor = Actor(name, body)
        self.actors.append(actor)
        actor.thread.start()
        return actor

    def run(self, until: Callable[[], bool]) -> None:
        """Let the actors take turns until `until` says so, asked at every point; then end them all."""
        self._until = until
        self._let(self._next())
        self._done.acquire()
        self._ending = True
        for actor in self.actors:
            while not actor.ended:
                actor.turn.release()
                self._done.acquire()
            actor.thread.join()

    def point(self, where: str) -> None:
        """A place where another actor may go first, or a fault may strike.

        Raises:
            Killed: the process is dead.
        """
        actor = self.holder
        if actor is None or actor.whole:
            return
        self._alive(actor)
        self.clock += self.random.random() * STEP
        if actor.mortal:
            self.strike(actor, where)
        self._trace.update(f"{actor.name} {where} {self.clock:.6f}\n".encode())
        self.points += 1
        following = self._next()
        if following is not actor:
            self._let(following)
            actor.turn.acquire()
        self._alive(actor)

    def sleep(self, seconds: float, where: str = "sleep") -> None:
        if self.holder is not None:
            self.holder.wake = self.clock + seconds
            self.point(where)

    @contextmanager
    def undivided(self) -> Iterator[None]:
        """Nobody else's turn within the block."""
        actor = self.holder
        if actor is None:
            yield
            return
        self._alive(actor)
        actor.whole += 1
        try:
            yield
        finally:
            actor.whole -= 1

    @property
    def trace(self) -> str:
        """A digest of everything that happened, in order."""
        return self._trace.hexdigest()

    def _alive(self, actor: Actor) -> None:
        if actor.dead or self._ending:
            raise Killed

    def _let(self, actor: Actor | None) -> None:
        (self._done if actor is None else actor.turn).release()

    def _next(self) -> Actor | None:
        """Draw whose turn it is, and say so; nobody's when the schedule is over."""
        self.holder = None
        waiting = [a for a in self.actors if not a.ended]
        if not self._ending and waiting and not self._until():
            ready = [a for a in waiting if a.wake <= self.clock]
            if not ready:
                self.clock = min(a.wake for a in waiting)
                ready = [a for a in waiting if a.wake <= self.clock]
            self.holder = self.random.choice(ready)
        return self.holder
