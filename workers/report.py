"""Report: where a job is, how far it is, and where its seconds went."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

EVERY = 0.1
"""Seconds between two messages of one phase."""

# What `fit_core` does one after another, as rough shares of its time: a second network on half of the core rows chooses L.
PARTS = {
    "train core": (0.0, 0.6),
    "choose ridge": (0.6, 0.95),
    "encode": (0.95, 0.96),
    "measure core": (0.96, 1.0),
    "fit linear part": (1.0, 1.0),
}


@dataclass
class Report:
    send: Callable[[str, float], None]
    """(phase, progress of the whole job, 0 to 1)."""
    keep: Callable[[Mapping[str, Any]], None] = lambda checkpoint: None
    """Hands over how far the work came, for another process to go on from: figures, and `blobs` by name."""
    plan: dict[str, float] = field(default_factory=dict)
    """phase -> rough share of the work; unknown phases count nothing."""
    seconds: dict[str, float] = field(default_factory=dict)
    _phase: str = ""
    _begun: float = 0.0
    _done: float = 0.0
    _sent: float = 0.0

    def resume(self, plan: Mapping[str, Any]) -> None:
        """Go on where another process ended the first half of a job, if it is the second half that is planned."""
        self.seconds = dict(plan.get("parts", {}).get("seconds", {}))
        self._done = sum(self.plan.get(phase, 0.0) for phase in self.seconds)

    def span(self, phase: str) -> tuple[float, float]:
        """Where in the whole job a phase begins and ends, given that those before it are done."""
        whole = sum(self.plan.values()) or 1.0
        return self._done / whole, (self._done + self._share(phase)) / whole

    def phase(self, name: str) -> None:
        """End the current phase and begin another."""
        self.end()
        self._phase, self._begun = name, time.perf_counter()
        self._tell(0.0)

    def progress(self, part: str, fraction: float) -> None:
        """How far the current phase is, or how far that part of it is which the mathematics calls `part`."""
        start, stop = PARTS.get(part, (0.0, 1.0))
        if time.perf_counter() - self._sent >= EVERY:
            self._tell(start + fraction * (stop - start))

    def end(self) -> dict[str, float]:
        """End the last phase. Returns seconds by phase."""
        if self._phase:
            spent = time.perf_counter() - self._begun
            if self._phase not in self.seconds:
                self._done += self.plan.get(self._phase, 0.0)
            self.seconds[self._phase] = round(self.seconds.get(self._phase, 0.0) + spent, 6)
            self._phase = ""
        return self.seconds

    def _tell(self, fraction: float) -> None:
        self._sent = time.perf_counter()
        whole = sum(self.plan.values()) or 1.0
        self.send(self._phase, min(1.0, (self._done + fraction * self._share(self._phase)) / whole))

    def _share(self, phase: str) -> float:
        """What a phase adds to what is done: nothing, where it is gone through again."""
        return 0.0 if phase in self.seconds else self.plan.get(phase, 0.0)
