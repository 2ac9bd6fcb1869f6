"""What a theorem proves and what an audit measured are two types, and nothing turns one into the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SEALED = (
    "Only the released files are public: A, B and the integer rows are user data, which the issuer and its auditors keep to themselves."
)
"""An assumption of every guarantee about released weights."""


@dataclass(frozen=True, kw_only=True)
class Proved:
    """A statement that holds for every input that meets its assumptions."""

    name: str
    """What is claimed, such as `equal_to_refit`."""

    value: Mapping[str, str]
    """The claim's numbers, as decimal texts, and digests, in hex, by name."""

    theorem: str
    """The mathematical statement it follows from. Never empty."""

    assumptions: tuple[str, ...]
    """What must hold for the theorem to apply here."""

    def __post_init__(self) -> None:
        if not self.name or not self.theorem:
            raise ValueError("a proved value needs a name and a theorem")


@dataclass(frozen=True, kw_only=True)
class Power:
    """Whether an audit can see what it looks for, tried on leaks planted for it."""

    planted: int
    """How many leaks were planted."""

    caught: int
    """How many of them the audit flagged."""

    def __post_init__(self) -> None:
        if not 0 <= self.caught <= self.planted:
            raise ValueError(f"{self.caught} of {self.planted} planted leaks cannot have been caught")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A number found by an audit on a finite sample."""

    audit: str
    """The audit's name."""

    access: str
    """What the auditor could see, such as `weights` or `served outputs`."""

    metric: str
    """What the number is, with its unit."""

    value: float
    """The estimate."""

    ci95: tuple[float, float] | None
    """The 95 % interval of `value`; None where the number is a count over a whole population."""

    n: int
    """How many samples the number rests on."""

    threshold: float | None = None
    """The limit that `passed` compares with; None for a number that is only reported."""

    passed: bool | None = None
    """The audit's answer; None without a threshold."""

    power: Power | None = None
    """Needed for an answer: an audit that flags no planted leak has none to give."""

    reference: float | None = None
    """The same metric on the model that it is compared with, such as the refitted one."""

    null: tuple[float, float] | None = None
    """The metric on retrained models: their mean, and what one of them in 100 exceeds. A scorer's own bias is not leakage."""

    void: bool = False
    """Whether a planted leak went unseen, so that nothing can be concluded. Such an answer never passes."""

    note: str = ""
    """What the number means here, in a sentence for a reader who knows no statistics."""

    def __post_init__(self) -> None:
        if (self.threshold is None) != (self.passed is None):
            raise ValueError("an audit's answer and its threshold come together")
        if self.passed and (self.power is None or self.power.caught == 0):
            raise ValueError("an audit that has caught no planted leak cannot pass anything")
        if self.passed and self.void:
            raise ValueError("a void audit cannot pass anything")
        if self.n <= 0:
            raise ValueError("a measured value rests on at least one sample")
