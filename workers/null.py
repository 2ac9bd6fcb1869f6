"""The null of a version's scores: other versions that retraining might have given, and what they answer to the same rows.

User weights are fitted again on halves of the user samples. Where the network itself learnt from user samples that would be no
retraining: the whole version is then trained again from other seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from models.data import Samples

Reads = Callable[[Samples], Callable[[Tensor], Tensor]]
"""Of some rows: what any user weights answer to them, logits `[n, C]` float64."""


@dataclass(frozen=True)
class Null:
    """Versions that nobody serves. Two after each other are of equal size, and differ as retrainings do."""

    versions: tuple[tuple[Reads, Tensor], ...]
    """How each reads rows, and its user weights."""

    what: str
    """What they are, in the plural."""

    why: str = ""
    """Why they are none, or fewer than were to be."""

    @property
    def note(self) -> str:
        """What stands beside a score, in a sentence or two."""
        return self.about(len(self.versions))

    def about(self, count: int) -> str:
        """The same, where the first `count` of them do."""
        return " ".join(([f"The null is over {count} {self.what}: mean and largest."] if count else []) + [self.why] * bool(self.why))

    def answers(self, rows: Samples) -> list[Tensor]:
        """Each version's logits `[n, C]`; readers that all share are asked for the rows once."""
        read = {reads: reads(rows) for reads in dict.fromkeys(reads for reads, _ in self.versions)}
        return [read[reads](weights) for reads, weights in self.versions]
