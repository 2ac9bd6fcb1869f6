"""The order in which `auto` tries to remove an attribute: the cheapest that can meet the budget first."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from models.erase.attribute import Attributed, label_information
from models.erase.irene import Irene, relearning, strong
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
    """Whether LEACE follows. Never after a code as narrow as the log-odds: of the few directions there it takes as many as the attribute
    has values less one, and with them the task (COMPAS: accuracy .68 -> .53)."""

    noise: float | None = None
    """Standard deviation of noise that follows all else."""


LINEAR = (Point("leace", Leace(), "bottleneck", leace_last=False),)
"""Where only linear readers are to be kept out: one step, in closed form."""

CODES = (("log-odds code", 0, 3.0), ("log-odds code, firmly", 0, 10.0), ("wider code", 16, 10.0), ("log-odds code, hard", 0, 30.0))
"""At the bottleneck: the name, the width of the code (0: one fewer than the classes) and gamma. The narrow code comes first: with it alone
19 parts of 20 go on Adult, and a wider one, which keeps more for user weights to learn from, leaks many times as much."""

THROUGH = (("through the network", 3.0), ("through the network, firmly", 10.0))
"""The whole backbone: the name and gamma."""


AGAIN = (("learnt again without it", None), ("learnt again without it, behind noise", 0.4))
"""Where rows are biased, and first there: a network that reads the attribute instead hardly comes off it. The name, and the standard
deviation of noise after the code: seen once, it took another third of what was left, at 4 points of accuracy."""

BIASED = 0.5
"""Share of H(y) that the attribute tells, from which on rows are treated as biased: a network may then have read the attribute instead."""


def points(rows: Attributed, values: int, *, linear: bool = False) -> tuple[Point, ...]:
    """Return the attempts in order.

    Args:
        rows: core rows, to learn from; how biased they are settles how the task is learnt.
        values: K.
        linear: whether only linear readers are claimed to be kept out.
    """
    if linear:
        return LINEAR
    count, biased = len(rows), is_biased(rows, values)
    narrow = tuple(
        Point(name, strong(count, gamma=gamma, code=code, biased=biased), "bottleneck", leace_last=code != 0) for name, code, gamma in CODES
    )
    whole = tuple(
        Point(name, strong(count, gamma=gamma, scope="network", biased=biased), "network", leace_last=True) for name, gamma in THROUGH
    )
    again = tuple(Point(name, relearning(count), "network", leace_last=False, noise=noise) for name, noise in AGAIN)
    return again + whole + narrow if biased else narrow + whole


def is_biased(rows: Attributed, values: int) -> bool:
    """Whether the attribute tells most of the label among the rows that have a value: a frozen backbone has then hardly learnt the task."""
    counts = torch.bincount(rows.known.samples.labels).double()
    share = counts[counts > 0] / counts.sum()
    return label_information(rows, values) > BIASED * float(-(share * share.log()).sum())
