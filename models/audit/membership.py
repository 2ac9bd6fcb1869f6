"""Whether forgotten samples still show: a likelihood-ratio attack on each of them, and how far it gets against mere retraining."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.guarantee import Power
from models.progress import Stop, check, never

FPRS = (0.01, 0.001)
POOLED = 1000
"""Non-member scores below which no true-positive rate at a small false-positive rate is stated."""

LEVEL = 0.01
"""How often retraining itself exceeds each of the two limits: once in 100."""

FEWEST_SHADOWS = 32
RESAMPLES = 1000
POINTS = 40  # of a drawn curve
NARROWEST = 1e-6  # of the score's size: a standard deviation below it is rounding

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Shadows:
    """Scores phi of the targets under models that differ from the audited one only in what they were trained on."""

    seen: Tensor
    """`[S, k]` float64: models trained with the targets (and, to audit a method by its own shadows, made to forget them since)."""

    unseen: Tensor
    """`[R, k]` float64: models that never had the targets. They are the null: what retraining gives."""

    def __post_init__(self) -> None:
        """Refuse shadows that cannot be compared.

        Raises:
            ValueError: on other shapes, fewer than 32 of a kind, or a score that is not finite.
        """
        for name, scores in (("seen", self.seen), ("unseen", self.unseen)):
            if scores.dim() != 2 or scores.shape[1] != self.seen.shape[1] or len(scores) < FEWEST_SHADOWS:
                raise ValueError(f"{name}: at least {FEWEST_SHADOWS} shadows' scores of the same targets, not {list(scores.shape)}")
            if not bool(torch.isfinite(scores).all()):
                raise ValueError(f"{name}: a score is not finite")


@dataclass(frozen=True)
class Rate:
    """A true-positive rate at a false-positive rate."""

    fpr: float
    value: float | None
    """None: not estimable from so few non-member scores."""
    ci95: tuple[float, float] | None

    null: tuple[float, float] | None = None
    """Of retrained models one by one: the mean, and what one in 100 exceeds; the largest of fewer."""


@dataclass(frozen=True)
class Attack:
    """What the attack finds on one model. The null is the same attack on models retrained without the targets."""

    auc: float
    """Probability that a target scores higher here than a target does in a model that never had it; 1/2 = no better than guessing."""

    auc_ci95: tuple[float, float]
    """Over new targets of the same kind."""

    auc_null: float
    """Mean over retrained models."""

    auc_limit: float
    """What one retrained model in 100 exceeds."""

    distance: float
    """Mean over targets of ((phi - mean) / sd)^2 under the retrained models' own means and deviations; about 1 for one of them."""

    distance_null: float
    distance_limit: float
    """What one retrained model in 100 exceeds."""

    rates: tuple[Rate, ...]

    curve: tuple[tuple[float, float], ...]
    """(false-positive rate, true-positive rate) at rates spaced evenly in logarithm, from one score to all: for a drawing."""

    targets: int
    pooled: int
    """Non-member scores."""

    ratios: Tensor
    """`[k]` float64: log-likelihood ratio of each target, seen against unseen. Personal data: for the auditor, never published."""

    marks: Tensor
    """`[k]` float64: what 5 % of each target's own non-member ratios exceed."""

    @property
    def once_in(self) -> int:
        """How many retrained models there are to one that exceeds a limit: 100, or fewer where the limit is the largest of fewer."""
        return min(round(1 / LEVEL), self.pooled // self.targets + 1)

    @property
    def found(self) -> bool:
        """Whether the model differs from retraining, towards having seen the targets or in any other way."""
        return self.auc > self.auc_limit or self.distance > self.distance_limit


@dataclass(frozen=True)
class Verdict:
    """The membership audit's answer."""

    passed: bool
    """False where something is found, and where the audit is void."""

    void: bool
    """Whether the planted canaries went unseen: then nothing can be concluded."""

    power: Power
    because: str


def phi(logits: Tensor, labels: Tensor) -> Tensor:
    """Return f_y - logsumexp over the other classes, `[..., k]`: the log odds of the label, nearly Gaussian over retrainings.

    Args:
        logits: `[..., k, C]`.
        labels: `[k]` int64, the labels that the targets were trained with.

    Source: Carlini et al., Membership inference attacks from first principles, IEEE S&P 2022, section IV. https://arxiv.org/abs/2112.03570
    """
    wide = logits.double()
    index = labels.expand(wide.shape[:-1]).unsqueeze(-1)
    own = wide.gather(-1, index).squeeze(-1)
    return own - torch.logsumexp(wide.scatter(-1, index, float("-inf")), dim=-1)


def attack(audited: Tensor, shadows: Shadows, *, seed: int, resamples: int = RESAMPLES, stop: Stop = never) -> Attack:
    """Attack each target by the likelihood ratio of two Gaussians, and compare with the same attack on every retrained model.

    ratio_i = ln N(phi_i; mean, sd of `seen`) - ln N(phi_i; mean, sd of `unseen`). A retrained model is scored by Gaussians fitted without
    it. The ratio is one-sided: a removal that overshoots can score low. So the two-sided distance from retraining counts as well.

    Args:
        audited: `[k]` phi of the targets under the audited version.

    Source: Hayes et al., Inexact unlearning needs more careful evaluations, SaTML 2025, section 4. https://arxiv.org/abs/2403.01218
    """
    check(stop)
    seen, unseen = shadows.seen.numpy().astype(np.float64), shadows.unseen.numpy().astype(np.float64)
    target = audited.numpy().astype(np.float64)
    inside, outside = _gaussian(seen), _gaussian(unseen)
    ratios = _log_density(target, inside) - _log_density(target, outside)
    others = _without_each(unseen)
    null = _log_density(unseen, inside) - _log_density(unseen, others)  # [R, k]
    null_aucs = _null_aucs(null)
    null_distances = np.square((unseen - others[0]) / others[1]).mean(axis=1)
    low, high, rates = _intervals(ratios, null, seed=seed, resamples=resamples, stop=stop)
    return Attack(
        auc=auc(ratios, null.ravel()),
        auc_ci95=(low, high),
        auc_null=float(null_aucs.mean()),
        auc_limit=_once_in(null_aucs),
        distance=float(np.square((target - outside[0]) / outside[1]).mean()),
        distance_null=float(null_distances.mean()),
        distance_limit=_once_in(null_distances),
        rates=rates,
        curve=_curve(ratios, null.ravel()),
        targets=len(target),
        pooled=null.size,
        ratios=torch.from_numpy(ratios),
        marks=torch.from_numpy(np.quantile(null, 0.95, axis=0)),
    )


def verdict(found: Attack, canaries: Attack, *, held: Attack | None = None) -> Verdict:
    """Say whether the audited version passes, given the attack on planted canaries in the version before.

    Args:
        found: the attack on the forgotten samples in the audited version.
        held: where the shadows of `found` were made to forget: the same attack by shadows that were not. Where forgetting works, the
            former say next to nothing about a version that has not forgotten; the latter do.
        canaries: the attack on mislabelled rows in a model that was trained with them and has not forgotten them. Needs to succeed.
    """
    caught = int((canaries.ratios > canaries.marks).sum())
    power = Power(planted=canaries.targets, caught=caught)
    if not canaries.found or 2 * caught < canaries.targets:
        return Verdict(False, True, power, f"void: only {caught} of {canaries.targets} planted canaries were seen")
    often = f"once in {found.once_in}"
    for one in (found, held):
        if one is not None and one.auc > one.auc_limit:
            told = f"the attack tells the forgotten samples from unseen ones with AUC {one.auc:.3f}; retraining exceeds {one.auc_limit:.3f}"
            return Verdict(False, False, power, f"{told} {often}")
    if found.distance > found.distance_limit:
        far = f"the forgotten samples' scores lie {found.distance:.1f} squared deviations from retraining"
        return Verdict(False, False, power, f"{far}, which itself exceeds {found.distance_limit:.1f} {often}")
    return Verdict(True, False, power, "the attack does no better than on a model that never had the samples")


def auc(members: Matrix, others: Matrix) -> float:
    """Return the probability that a member's score is above another's; equal scores count one half."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, members, side="left") + np.searchsorted(ordered, members, side="right")
    return float(below.mean() / (2 * len(ordered)))


def _null_aucs(null: Matrix) -> Matrix:
    """Return each model's AUC against all others, `[R]`: against all, less the half of its own pairs that it wins against itself."""
    k, total = null.shape[1], null.size
    ordered = np.sort(null.ravel())
    wins = (np.searchsorted(ordered, null, side="left") + np.searchsorted(ordered, null, side="right")).sum(axis=1) / 2
    found: Matrix = (wins - k * k / 2) / (k * (total - k))
    return found


def true_positive_rate(members: Matrix, others: Matrix, fpr: float) -> float:
    """Return the share of members above the least score that at most `fpr` of the others exceed."""
    allowed = int(np.floor(fpr * len(others) + 1e-9))
    threshold = np.sort(others)[len(others) - 1 - allowed] if allowed < len(others) else -np.inf
    return float((members > threshold).mean())


def _curve(members: Matrix, others: Matrix) -> tuple[tuple[float, float], ...]:
    rates = np.unique(np.rint(np.geomspace(1, len(others), POINTS))) / len(others)
    return tuple((float(fpr), true_positive_rate(members, others, float(fpr))) for fpr in rates)


def _once_in(null: Matrix) -> float:
    """Return the value that the share `LEVEL` of the null exceeds; the largest where there are fewer than 100."""
    return float(np.sort(null)[min(len(null) - 1, ceil((1 - LEVEL) * (len(null) + 1)) - 1)])


def _gaussian(scores: Matrix) -> tuple[Matrix, Matrix]:
    floor = NARROWEST * (1 + np.abs(scores).max(axis=0))
    return scores.mean(axis=0), np.maximum(scores.std(axis=0, ddof=1), floor)


def _without_each(scores: Matrix) -> tuple[Matrix, Matrix]:
    """Return for each row mean and standard deviation over all other rows, `[R, k]` each."""
    n = len(scores)
    centred = scores - scores.mean(axis=0)
    mean = -centred / (n - 1)
    square = (np.square(centred).sum(axis=0) - np.square(centred)) / (n - 1) - np.square(mean)
    floor = NARROWEST * (1 + np.abs(scores).max(axis=0))
    return scores.mean(axis=0) + mean, np.maximum(np.sqrt(np.maximum(square, 0) * (n - 1) / (n - 2)), floor)


def _log_density(scores: Matrix, gaussian: tuple[Matrix, Matrix]) -> Matrix:
    mean, sd = gaussian
    found: Matrix = -np.square((scores - mean) / sd) / 2 - np.log(sd)
    return found


def _intervals(ratios: Matrix, null: Matrix, *, seed: int, resamples: int, stop: Stop) -> tuple[float, float, tuple[Rate, ...]]:
    """Resample targets, each with all of its non-member scores."""
    generator = np.random.default_rng(seed)
    k = len(ratios)
    wins = np.sort(null.ravel())
    share = (np.searchsorted(wins, ratios, "left") + np.searchsorted(wins, ratios, "right")) / (2 * len(wins))  # [k]
    estimable = null.size >= POOLED
    drawn, aucs = np.zeros((resamples, len(FPRS))), np.zeros(resamples)
    thresholds = [_threshold(null, fpr) for fpr in FPRS]
    for number in range(resamples):
        check(stop)
        chosen = generator.integers(0, k, size=k)
        aucs[number] = share[chosen].mean()
        drawn[number] = [(ratios[chosen] > threshold).mean() for threshold in thresholds]
    low, high = np.quantile(aucs, [0.025, 0.975])
    rates = []
    for i, fpr in enumerate(FPRS):
        if not estimable:
            rates.append(Rate(fpr, None, None))
            continue
        each = (null > thresholds[i]).mean(axis=1)
        value, interval = true_positive_rate(ratios, null.ravel(), fpr), tuple(np.quantile(drawn[:, i], [0.025, 0.975]).tolist())
        rates.append(Rate(fpr, value, interval, (float(each.mean()), _once_in(each))))
    return float(low), float(high), tuple(rates)


def _threshold(null: Matrix, fpr: float) -> float:
    ordered = np.sort(null.ravel())
    return float(ordered[max(0, len(ordered) - 1 - int(np.floor(fpr * len(ordered) + 1e-9)))])
