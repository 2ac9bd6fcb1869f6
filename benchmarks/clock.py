"""Seconds of things that are compared: warm, in turns, medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Timing:
    """What repeating one piece of work showed."""

    seconds: tuple[float, ...]
    """Of every repeat, in order, the warm-up not among them."""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def least(self) -> float:
        return min(self.seconds)


Work = Callable[[Any], object]
"""Something to time; it is given what its preparation returned."""


@dataclass(frozen=True)
class Contender:
    """One piece of work in a comparison."""

    work: Work
    prepare: Callable[[], Any] = lambda: None
    """Makes what the work uses up, before every repeat, outside the time."""


def in_turns(contenders: Mapping[str, Contender], *, repeats: int, warm_up: int = 1) -> dict[str, Timing]:
    """Time every contender once a round, so that whatever slows the machine down slows all of them.

    Args:
        repeats: rounds that count.
        warm_up: rounds before them that do not.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(warm_up + repeats):
        for name, contender in contenders.items():
            given = contender.prepare()
            begun = time.perf_counter()
            contender.work(given)
            spent = time.perf_counter() - begun
            if turn >= warm_up:
                seconds[name].append(spent)
    return {name: Timing(tuple(spent)) for name, spent in seconds.items()}


def once(work: Callable[[], Any]) -> tuple[Any, float]:
    """Run long work one time. Returns what it returned, and its seconds."""
    begun = time.perf_counter()
    result = work()
    return result, time.perf_counter() - begun
