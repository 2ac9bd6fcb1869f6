"""Whether the probes can say no: leaks planted for them, heads that fool only themselves, and the least that they can certify."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, inf

import numpy as np
import torch
from scipy.special import ndtri  # type: ignore[import-untyped, unused-ignore]
from torch import Tensor
from torch.nn import functional

from models.audit.balance import FEWEST, LEVEL, balanced, limits
from models.audit.probe import RESAMPLES, Held, probe
from models.audit.readers import READERS
from models.guarantee import Power
from models.progress import Progress, Stop, never, silent

PHASE = "planted leaks"


@dataclass(frozen=True)
class Leak:
    """A leak that was planted, and what the probes said of it."""

    name: str
    lower: float
    """The largest lower 95 % limit of a reader's V-information, in nats."""

    caught: bool
    """Whether that is above the budget."""


@dataclass(frozen=True)
class Planted:
    """All leaks planted for one audit."""

    leaks: tuple[Leak, ...]

    @property
    def power(self) -> Power:
        """How many were planted and caught."""
        return Power(planted=len(self.leaks), caught=sum(leak.caught for leak in self.leaks))

    @property
    def void(self) -> bool:
        """Whether a leak went unseen: the audit then has no verdict to give."""
        return not all(leak.caught for leak in self.leaks)


def planted(
    train: Held,
    test: Held,
    *,
    values: int,
    classes: int,
    budget: float,
    seed: int,
    before: tuple[Held, Held] | None = None,
    resamples: int = RESAMPLES,
    progress: Progress = silent,
    stop: Stop = never,
) -> Planted:
    """Show the probes leaks of a known kind, on the audit's own rows and with its own budget, and see which they flag.

    Planted are the identity encoder (the value itself among the audited features); a corrupted own head (features turned by a random
    rotation, under which any head fitted before answers at chance while all information is still there); and the version before. A leak
    is caught when a reader's lower limit exceeds the budget; readers are tried cheapest first until one catches it.

    Args:
        train, test: the rows and features of the audit itself.
        budget: the audit's limit in nats.
        before: the same rows' features in the version that the removal began with. Where it already keeps to the budget it is not caught,
            and the verdict void: a removal without a leak to remove shows nothing.
    """
    identity = (_identity(train, values), _identity(test, values))
    source = before if before is not None else identity
    plants = {"identity encoder": identity, "corrupted own head": _turned(source, seed)}
    if before is not None:
        plants["version before"] = before
    found = []
    for number, (name, (learn, judge)) in enumerate(plants.items()):
        lower = -inf
        for reader in READERS:
            seen = probe(
                learn,
                judge,
                values=values,
                classes=classes,
                seed=seed,
                resamples=resamples,
                conditional=False,
                readers=(reader,),
                stop=stop,
            )
            lower = max(lower, seen.lower)
            if lower > budget:
                break
        found.append(Leak(name, lower, lower > budget))
        progress(PHASE, (number + 1) / len(plants))
    return Planted(tuple(found))


def _identity(rows: Held, values: int) -> Held:
    """Put the value itself among the features, as large as one of them."""
    scale = rows.features.std(dim=0).mean().clamp(min=1e-3)
    return Held(torch.cat([rows.features, scale * functional.one_hot(rows.values, values)], dim=1), rows.values, rows.labels)


def _turned(rows: tuple[Held, Held], seed: int) -> tuple[Held, Held]:
    width = rows[0].features.shape[1]
    turn, _ = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(seed)))
    train, test = (Held(part.features @ turn, part.values, part.labels) for part in rows)
    return train, test


@dataclass(frozen=True)
class OwnHead:
    """What a method's own private head says of itself. It never decides."""

    balanced_accuracy: float
    ci95: tuple[float, float]

    chance: float
    """What always naming the commonest value gets right."""

    v_information: float
    """H(v) - cross-entropy of the head, nats."""

    alarm: bool
    """Whether the head is below chance with 95 % confidence: it then answers a value that it can read, wrongly, and removed nothing."""


def own_head(logits: Tensor, values_of: Tensor, labels: Tensor, *, classes: int, seed: int, resamples: int = RESAMPLES) -> OwnHead:
    """Judge a method's own head on the rows, and in the population, of the fresh probes.

    Args:
        logits: `[n, K]`.
        values_of: `[n]` int64.
        labels: `[n]` int64.
    """
    population = balanced(values_of, labels, values=logits.shape[1], classes=classes)
    answers = torch.log_softmax(logits.double(), dim=1)
    right = (answers.argmax(dim=1) == values_of).double()
    gains = answers.gather(1, values_of[:, None]).squeeze(1).clamp(min=-50.0)
    found = limits(torch.stack([right, gains], dim=1).numpy(), population, seed=seed, resamples=resamples)
    chance = float(population.marginal.max())
    low, high = found.ci95[0]
    return OwnHead(float(found.estimate[0]), (low, high), chance, population.entropy + float(found.estimate[1]), high < chance)


def balanced_rows(cells: Sequence[int]) -> int:
    """Return how many balanced rows a test set is worth, from its counts by cell (label, value); cells under 5 are left out."""
    counts = np.array([count for count in cells if count >= FEWEST], dtype=np.float64)
    return floor(len(counts) ** 2 / float((1 / counts).sum()) + 1e-9) if len(counts) else 0


def smallest_budget(test_rows: int, values: int, *, readers: int = len(READERS), level: float = LEVEL) -> float:
    """Return the least limit in nats that features without any information are certified for, 19 times of 20.

    A reader of pure noise answers with likelihood ratios 1 + d, of mean 1 and variance t^2. To second order its V-information on n new rows
    is -t^2/2 + t e / sqrt(n), e standard normal, with standard error t / sqrt(n); its upper limit is -t^2/2 + t (e + c) / sqrt(n), at most
    (e + c)^2 / (2 n) whatever its sharpness t. The largest of the readers' e is below z = Phi^-1(.95^(1/readers)) with 95 % confidence, and
    c by the same rule at the limit's own level: (z + c)^2 / (2 n). To second order nothing depends on K; the factor 1 + 3 K / n is what
    simulations of up to 20 values add.

    Args:
        test_rows: balanced test rows, as `balanced_rows` counts them.
        values: K.
        level: of the upper limit.
    """
    if test_rows < 1:
        return inf
    z, c = (float(ndtri(one ** (1 / readers))) for one in (LEVEL, level))
    return (z + c) ** 2 / (2 * test_rows) * (1 + 3 * values / test_rows)
