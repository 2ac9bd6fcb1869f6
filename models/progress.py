"""How long work says how far it is, and how it is told to stop."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float], None]
"""Called with the name of the phase and the fraction of that phase done, 0 to 1."""

Stop = Callable[[], bool]
"""True once the work should end without a result."""


class Stopped(Exception):
    """The work was told to stop; whatever it had made is incomplete and must not be used."""


def silent(phase: str, fraction: float) -> None:
    """Report to nobody."""


def never() -> bool:
    """Never stop."""
    return False


def check(stop: Stop) -> None:
    """Raise `Stopped` if the work should end."""
    if stop():
        raise Stopped
