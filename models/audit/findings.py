"""Audits' answers as measured values: interval, threshold, null, power and a plain sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from models.audit.differencing import Differencing
from models.audit.interval import Interval
from models.audit.membership import Attack, Rate, Verdict
from models.audit.planted import OwnHead, Planted
from models.audit.probe import Probe, Probed
from models.guarantee import Measured

PROBES, INTERVAL, OWN_HEAD, MEMBERSHIP, DIFFERENCING = "fresh_probes", "interval", "own_head", "membership", "differencing"

LEAKAGE, LINEAR_LEAKAGE = "v_information_upper95_nats", "linear_v_information_upper95_nats"
"""What no reader finds more than with 95 % confidence, all readers at once: as policies name it (service/policies.py)."""

SERVED, BOTH, AFTER = "served outputs", "both versions' outputs", "outputs of the version after"
Null = tuple[float, float]
PERMUTED = "The null is the readers' own bias: the same rows, values dealt out anew within each label. No network is trained again for it."
ALWAYS = "The reference is what always naming the commonest value gets right."


def of_probes(
    found: Probed,
    planted: Planted,
    null: Sequence[Probed],
    *,
    budget: float,
    access: str,
    claim: str = "any",
    before: Probed | None = None,
) -> list[Measured]:
    """State what fresh probes found: what no reader exceeds, which decides, then all figures, which do not.

    Args:
        null: the same probes where the values were dealt out anew within each label (`permuted`): the readers' own bias.
        budget: the most that may be left, in nats. Passed = the upper limit over the readers is at most this, and no leak went unseen.
        claim: linear or any: whose reading decides.
        before: the same probes where nothing was removed.
    """
    about, n = found.about(claim), found.n
    best = about.best
    left_out = f" {len(found.left_out)} groups have too few rows and are not judged." if found.left_out else ""
    cut = " (cut at H(v))" if about.cut else ""
    leakage = Measured(
        audit=PROBES,
        access=access,
        metric=LINEAR_LEAKAGE if claim == "linear" else LEAKAGE,
        value=about.upper,
        ci95=best.ci95,
        n=n,
        threshold=budget,
        passed=about.upper <= budget and not planted.void,
        power=planted.power,
        reference=before.about(claim).upper if before is not None else None,
        null=mean_and_largest([one.about(claim).upper for one in null]),
        void=planted.void,
        note=f"The best of {len(about.probes)} fresh readers finds {best.v_information:.4f} of {found.entropy:.4f} nats; the value is its "
        f"upper limit{cut}. {PERMUTED}{left_out}",
    )
    figures = [
        shown(PROBES, "attribute_entropy_nats", found.entropy, n, access=access),
        shown(PROBES, "label_information_nats", found.label_information, n, access=access),
        *(each for place, probe in enumerate(found.probes) for each in _of_reader(probe, [one.probes[place] for one in null], n, access)),
        shown(PROBES, "majority", best.majority, n, access=access, note="What always naming the commonest value gets right."),
        shown(PROBES, "cells_left_out", len(found.left_out), n, access=access),
    ]
    if before is not None:
        figures.append(shown(PROBES, "v_information_nats.before", before.leakage, before.n, access=access, ci95=before.best.ci95))
    return [leakage, *figures]


def of_retrained(
    found: Probed, anew: Sequence[Probed], *, access: str, claim: str = "any", why: str = "", rows: str = ""
) -> list[Measured]:
    """State what the same readers find in each retrained version, the version's own figure for reference.

    Args:
        anew: of versions that were trained again.
        why: there are none, or fewer than were to be.
        rows: suffix of the metrics' names that says on which rows, where it is not on those that decide; the version's own figures are
            then stated too.
    """
    metric, of_this = LINEAR_LEAKAGE if claim == "linear" else LEAKAGE, found.about(claim)
    note = "Trained again from another seed, or without a bottleneck on half of the user samples. The reference is this version."
    stated = []
    if rows and anew:
        stated.append(shown(PROBES, f"{metric}{rows}", of_this.upper, found.n, access=access))
        stated.append(shown(PROBES, f"v_information_nats{rows}", of_this.leakage, found.n, access=access))
    for number, one in enumerate(anew, start=1):
        value, how = one.about(claim), partial(shown, PROBES, n=one.n, access=access, note=note)
        stated.append(how(f"{metric}.retrained_{number}{rows}", value.upper, reference=of_this.upper))
        stated.append(how(f"v_information_nats.retrained_{number}{rows}", value.leakage, reference=of_this.leakage))
    return [*stated, shown(PROBES, "retrainings", len(anew), found.n, access=access, note=why)]


def _of_reader(probe: Probe, null: Sequence[Probe], n: int, access: str) -> Iterator[Measured]:
    def null_of(number: Callable[[Probe], float | None]) -> Null | None:
        return mean_and_largest([value for value in map(number, null) if value is not None])

    name, dealt = probe.name, null_of(lambda one: one.v_information)
    yield shown(PROBES, f"{name}.v_information_nats", probe.v_information, n, access=access, ci95=probe.ci95, null=dealt, note=PERMUTED)
    metric, dealt, note = f"{name}.balanced_accuracy", null_of(lambda one: one.balanced_accuracy), f"{ALWAYS} {PERMUTED}"
    yield shown(PROBES, metric, probe.balanced_accuracy, n, access=access, reference=probe.majority, null=dealt, note=note)
    if probe.conditional is not None:
        metric, dealt = f"{name}.conditional_on_label_nats", null_of(lambda one: one.conditional)
        yield shown(PROBES, metric, probe.conditional, n, access=access, ci95=probe.conditional_ci95, null=dealt, note=PERMUTED)


def of_interval(found: Interval, n: int, access: str, *, null: Sequence[Interval] = (), rows: str = "") -> list[Measured]:
    """State both ends of a leakage interval, and the estimate between them where there is one.

    Args:
        access: what the probes saw, for the lower end; the upper end says for whom it holds itself.
        null: the same of versions that were trained again.
        rows: suffix of the metrics' names that says on which rows, where it is not on those that decide.
    """

    def beside(number: Callable[[Interval], float | None]) -> Null | None:
        return mean_and_largest([value for value in map(number, null) if value is not None])

    lower, upper = (f"leakage_interval.{end}{rows}" for end in ("lower", "upper"))
    stated = [shown(INTERVAL, lower, found.lower, n, access=access, null=beside(lambda one: one.lower))]
    of_upper = beside(lambda one: one.upper) if found.how != "trivial" else None
    stated.append(shown(INTERVAL, upper, found.upper, n, access=f"{found.access}: {found.by}", null=of_upper))
    if found.access != "weights":
        by = "weights: whoever holds them computes without the draw"
        stated.append(shown(INTERVAL, upper, found.entropy, n, access=by))
    if found.measured is not None:
        note, metric, ci95 = "An estimate for the audit rows; no bound.", f"noisy_information_nats{rows}", found.measured_ci95
        again = beside(lambda one: one.measured)
        stated.append(shown(INTERVAL, metric, found.measured, n, access=access, ci95=ci95, null=again, note=note))
    return stated


def of_own_head(own: OwnHead, n: int, *, null: Sequence[OwnHead] = (), rows: str = "") -> list[Measured]:
    """State what a method's own private head says of itself: it was trained against, so it never decides.

    Args:
        null: the heads of the same removal from other seeds.
        rows: suffix of the metrics' names that says on which rows, where it is not on those that decide.
    """
    stated = []
    for name, value, ci95, reference, others in (
        ("balanced_accuracy", own.balanced_accuracy, own.ci95, own.chance, [one.balanced_accuracy for one in null]),
        ("v_information_nats", own.v_information, None, None, [one.v_information for one in null]),
        ("below_chance", float(own.alarm), None, None, [float(one.alarm) for one in null]),
    ):
        how: dict[str, Any] = {"access": "the method's own private head", "ci95": ci95, "reference": reference}
        stated.append(shown(OWN_HEAD, f"own_head.{name}{rows}", value, n, null=mean_and_largest(others), **how))
    return stated


def of_membership(
    found: Attack, answer: Verdict, *, before: Attack | None = None, held: tuple[Attack, Attack] | None = None, access: str = "outputs"
) -> list[Measured]:
    """State how far the attack on the forgotten samples got, beside retrained models and the version before.

    Args:
        held: where the shadows of `found` were made to forget: the same attack by shadows that were not, and what it finds before.
    """
    told = _attack(found, answer, "AUC of telling forgotten from unseen", access, before)
    apart = Measured(
        audit=MEMBERSHIP,
        access=access,
        metric="mean squared distance of the forgotten samples' scores from retraining, in its deviations",
        value=found.distance,
        ci95=None,
        n=found.targets,
        threshold=found.distance_limit,
        passed=found.distance <= found.distance_limit and not answer.void,
        power=answer.power,
        null=(found.distance_null, found.distance_limit),
        void=answer.void,
        reference=before.distance if before is not None else None,
        note="Catches what the attack cannot: versions that differ from retraining in any other way.",
    )
    still = [_attack(held[0], answer, "AUC by shadows that have not forgotten", access, held[1])] if held is not None else []
    return [told, *still, apart, *_rates(MEMBERSHIP, access, (held[0] if held is not None else found).rates, found.targets)]


def _attack(found: Attack, answer: Verdict, metric: str, access: str, before: Attack | None) -> Measured:
    return Measured(
        audit=MEMBERSHIP,
        access=access,
        metric=metric,
        value=found.auc,
        ci95=found.auc_ci95,
        n=found.targets,
        threshold=found.auc_limit,
        passed=found.auc <= found.auc_limit and not answer.void,
        power=answer.power,
        null=(found.auc_null, found.auc_limit),
        void=answer.void,
        reference=before.auc if before is not None else None,
        note=f"1/2 is guessing. Verdict: {answer.because}.",
    )


def _rates(audit: str, access: str, rates: tuple[Rate, ...], n: int) -> Iterator[Measured]:
    for rate in rates:
        if rate.value is not None:
            yield shown(audit, f"TPR at FPR {rate.fpr:g}", rate.value, n, access=access, ci95=rate.ci95, null=rate.null)


def of_differencing(found: Differencing, null: Sequence[Differencing] = (), *, noise: bool = False) -> list[Measured]:
    """State what an attacker with both versions learns: a limit of every removal, not a fault of this one.

    Args:
        null: the same of these rows where as many others were forgotten instead: the scorer's own bias.
        noise: whether the versions are released with noise.
    """
    n = found.forgotten + found.kept
    note = "Removal has to change what it removes, so this is a limit of every removal, and counts for who holds both versions. " + (
        "Noise in the released weights hides some of it." if noise else "Only noise in the released weights would hide more."
    )
    late = "The version before is withdrawn: who took no copy of it has this left. It tells rows that were fitted from rows that were not."
    stated = []
    for metric, value, interval, others, access, said in (
        ("AUC of telling forgotten from kept", found.auc, found.auc_ci95, [one.auc for one in null], BOTH, note),
        ("AUC without labels", found.change_auc, found.change_ci95, [one.change_auc for one in null], BOTH, note),
        ("AUC by the version after alone", found.after_auc, found.after_ci95, [one.after_auc for one in null], AFTER, late),
    ):
        stated.append(shown(DIFFERENCING, metric, value, n, access=access, ci95=interval, null=mean_and_largest(others), note=said))
    return [*stated, *_rates(DIFFERENCING, BOTH, rates_beside(found, null), found.forgotten)]


def rates_beside(found: Differencing, null: Sequence[Differencing]) -> tuple[Rate, ...]:
    """The true-positive rates, each beside those of removals of others."""
    others = zip(*(one.rates for one in null), strict=True) if null else [()] * len(found.rates)
    return tuple(
        replace(rate, null=mean_and_largest([each.value for each in beside if each.value is not None]))
        for rate, beside in zip(found.rates, others, strict=True)
    )


def without_noise(found: Differencing, null: Sequence[Differencing]) -> Measured:
    """State what the attacker with both versions would learn of the same removal, had neither version been given noise.

    Args:
        null: the same where as many others were forgotten instead, without noise too.
    """
    note = "Both versions solved again without noise: the difference to the AUC as released is what the noise hides."
    n, metric = found.forgotten + found.kept, "AUC of telling forgotten from kept, without the noise"
    others = mean_and_largest([one.auc for one in null])
    return shown(DIFFERENCING, metric, found.auc, n, access=BOTH, ci95=found.auc_ci95, null=others, note=note)


def mean_and_largest(values: Sequence[float]) -> Null | None:
    """What a null says where it has too few models to say what one in 100 exceeds."""
    return (sum(values) / len(values), max(values)) if values else None


def shown(
    audit: str,
    metric: str,
    value: float,
    n: int,
    *,
    access: str = SERVED,
    ci95: tuple[float, float] | None = None,
    reference: float | None = None,
    null: tuple[float, float] | None = None,
    note: str = "",
) -> Measured:
    """State a number that is only reported: without a threshold it decides nothing."""
    return Measured(audit=audit, access=access, metric=metric, value=value, ci95=ci95, n=n, reference=reference, null=null, note=note)
