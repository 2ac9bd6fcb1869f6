"""The order in which `auto` tries to remove an attribute: the cheapest that can meet the budget first."""

from __future__ import annotations

from dataclasses import dataclass

from models.erase.irene import Irene, strong
from models.erase.leace import Leace
from models.erase.scope import Scope


@dataclass(frozen=True)
class Point:
    """One attempt; what it reaches is a point of the trade-off between leakage and accuracy."""

    name: str

    how: Irene | Leace
    """Leace is of its method, everything else of IRENE."""

    scope: Scope

    leace_last: bool
    """Whether LEACE follows: what is left for a linear reader then goes too, at next to no cost."""


LINEAR = (Point("leace", Leace(), "bottleneck", leace_last=False),)
"""Where only linear readers are to be kept out: one step, in closed form."""

CODES = (("log-odds code", 0, 3.0), ("log-odds code, firmly", 0, 10.0), ("wider code", 16, 10.0), ("log-odds code, hard", 0, 30.0))
"""At the bottleneck: the name, the width of the code (0: one fewer than the classes) and gamma. The narrow code comes first: with it alone
19 of 20 nats go on Adult, and a wider one, which keeps more for user weights to learn from, leaks many times as much."""

THROUGH = (("through the network", 3.0), ("through the network, hard", 20.0))
"""The whole backbone: the name and gamma."""


def points(rows: int, *, linear: bool = False) -> tuple[Point, ...]:
    """Return the attempts in order.

    Args:
        rows: rows to learn from.
        linear: whether only linear readers are claimed to be kept out.
    """
    if linear:
        return LINEAR
    narrow = tuple(Point(name, strong(rows, gamma=gamma, code=code), "bottleneck", leace_last=True) for name, code, gamma in CODES)
    whole = tuple(Point(name, strong(rows, gamma=gamma, scope="network"), "network", leace_last=True) for name, gamma in THROUGH)
    return narrow + whole
