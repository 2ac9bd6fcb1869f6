"""The audits that a request to forget may ask for beside the proof: run one after another, their files kept as the job's evidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Any, Protocol, TypeVar

from models.audit.utility import SMALLEST
from models.progress import Progress
from workers import decoded_releases, differenced_releases, released, retrained
from workers.artifacts import Shelf
from workers.attacked import attacked
from workers.auditing import phase
from workers.decoded import decoded
from workers.differenced import differenced
from workers.forgotten import FEWEST_KEPT, Beside, Shown, told
from workers.report import Report


class Removal(Protocol):
    """A removal that is done and not yet published."""

    @property
    def shelf(self) -> Shelf:
        """Where evidence is written."""

    @property
    def counts(self) -> tuple[int, int]:
        """How many user rows went, and how many stay."""


R = TypeVar("R", bound=Removal)

AUDITS: dict[str, Beside] = {"membership": attacked, "differencing": differenced, "decoder": decoded}
"""Of `exact`."""
OF_RELEASES: dict[str, Callable[[released.Release, Progress], Shown]] = {
    "membership": released.attacked,
    "differencing": differenced_releases.differenced,
    "decoder": decoded_releases.decoded,
}
"""Of a linearised model's methods."""
OF_RETRAINING: dict[str, Callable[[retrained.Retrained, Progress], Shown]] = {"membership": retrained.attacked}
"""Of `retrain`, of a model of fixed features."""
SHARES = {"membership": 3.0, "differencing": 0.5, "decoder": 3.0}


def shares(names: Set[str]) -> dict[str, float]:
    """Phases of the audits asked for and rough shares of their time."""
    return {phase(name): SHARES[name] for name in AUDITS if name in names}


def measure_beside(names: Set[str], removal: R, report: Report, audits: Mapping[str, Callable[[R, Progress], Shown]]) -> dict[str, Any]:
    """Carry out the audits asked for. Returns evidence, name -> {blob, sha256, size}, `picture` where it shows samples, and `fitted`.

    Of fewer than 20 forgotten samples nothing is told: it would be about single people.
    """
    evidence: dict[str, Any] = {}
    for name in (name for name in audits if name in names):
        report.phase(phase(name))
        why = _withheld(*removal.counts)
        if why is not None:
            found = Shown(told(name, {"withheld": why}), fitted=False)
        else:
            found = audits[name](removal, lambda _, done: report.progress("", done))
        fitted = {"fitted": True} if found.fitted else {}
        evidence |= {file: removal.shelf.put_file(data) | fitted for file, data in found.files.items()}
        evidence |= {file: removal.shelf.put_file(data) | {"picture": True} for file, data in found.pictures.items()}
    return evidence


def _withheld(gone: int, stay: int) -> str | None:
    if gone < SMALLEST:
        return f"Fewer than {SMALLEST} samples were forgotten: an attack on so few is about single people."
    if stay < FEWEST_KEPT:
        return "Too few samples are left to refit without some of them."
    return None
