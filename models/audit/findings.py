"""Audits' answers as measured values: interval, limit, null, power and a plain sentence. Removals state theirs in workers/verdict.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from models.audit.differencing import Differencing
from models.audit.interval import Interval
from models.audit.membership import Attack, Rate, Verdict
from models.audit.planted import Planted
from models.audit.probe import Probe, Probed
from models.guarantee import Measured

PROBE, INTERVAL, MEMBERSHIP, DIFFERENCING = "probe", "interval", "membership", "differencing"

SERVED, BOTH = "served outputs", "both versions' outputs"


def of_probe(found: Probed, planted: Planted, *, budget: float, access: str = SERVED, before: Probed | None = None) -> list[Measured]:
    """State what fresh probes found: the largest V-information, which decides, then each probe's figures, which do not.

    Args:
        budget: the most that may be left, in nats. Passed = the upper limit over all probes is at most this, and no leak went unseen.
        before: the same probes on the version before.
    """
    best = found.best
    passed = found.upper <= budget and not planted.void
    left_out = f" {len(found.left_out)} groups have too few rows and are not judged." if found.left_out else ""
    note = f"The best of {len(found.probes)} fresh readers finds {best.v_information:.4f} of {found.entropy:.4f} nats.{left_out}"
    leakage = Measured(
        audit=PROBE,
        access=access,
        metric="largest V-information, nats",
        value=best.v_information,
        ci95=best.ci95,
        n=found.n,
        threshold=budget,
        passed=passed,
        power=planted.power,
        reference=before.leakage if before is not None else None,
        limit=found.upper,
        void=planted.void,
        note=note,
    )
    return [leakage, *(measured for probe in found.probes for measured in _of_reader(probe, found.n, access))]


def _of_reader(probe: Probe, n: int, access: str) -> Iterator[Measured]:
    name = probe.name
    yield _shown(PROBE, access, f"{name}: V-information, nats", probe.v_information, n, ci95=probe.ci95, limit=probe.upper95)
    always = "The reference is what always naming the commonest value gets right."
    yield _shown(PROBE, access, f"{name}: balanced accuracy", probe.balanced_accuracy, n, reference=probe.majority, note=always)
    if probe.conditional is not None:
        yield _shown(PROBE, access, f"{name}: information beside the label, nats", probe.conditional, n, ci95=probe.conditional_ci95)


def of_interval(found: Interval, n: int) -> list[Measured]:
    """State both ends of a leakage interval, and the estimate between them where there is one."""
    note = f"Upper end by {found.by}. Whoever holds the weights is bound only by H(v) = {found.entropy:.4f} nats."
    ends = (("lower end, nats", found.lower), ("upper end, nats", found.upper))
    stated = [_shown(INTERVAL, found.access, name, end, n, note=note) for name, end in ends]
    if found.measured is not None:
        metric, note = "information by Monte Carlo, nats", "An estimate for the audit rows; no bound."
        stated.append(_shown(INTERVAL, found.access, metric, found.measured, n, ci95=found.measured_ci95, note=note))
    return stated


def of_membership(found: Attack, answer: Verdict, *, before: Attack | None = None, access: str = "outputs") -> list[Measured]:
    """State how far the attack on the forgotten samples got, beside retrained models and the version before."""
    shared = {"audit": MEMBERSHIP, "access": access, "n": found.targets, "power": answer.power, "void": answer.void}
    told = Measured(
        **shared,  # type: ignore[arg-type]
        metric="AUC of telling forgotten from unseen",
        value=found.auc,
        ci95=found.auc_ci95,
        threshold=found.auc_limit,
        passed=found.auc <= found.auc_limit and not answer.void,
        null=(found.auc_null, found.auc_limit),
        reference=before.auc if before is not None else None,
        note=f"1/2 is guessing. Verdict: {answer.because}.",
    )
    apart = Measured(
        **shared,  # type: ignore[arg-type]
        metric="mean squared distance of the forgotten samples' scores from retraining, in its deviations",
        value=found.distance,
        ci95=None,
        threshold=found.distance_limit,
        passed=found.distance <= found.distance_limit and not answer.void,
        null=(found.distance_null, found.distance_limit),
        reference=before.distance if before is not None else None,
        note="Catches what the attack cannot: versions that differ from retraining in any other way.",
    )
    return [told, apart, *_rates(MEMBERSHIP, access, found.rates, found.targets)]


def _rates(audit: str, access: str, rates: tuple[Rate, ...], n: int) -> Iterator[Measured]:
    for rate in rates:
        if rate.value is not None:
            yield _shown(audit, access, f"TPR at FPR {rate.fpr:g}", rate.value, n, ci95=rate.ci95)


def of_differencing(found: Differencing, null: Sequence[Differencing] = ()) -> list[Measured]:
    """State what an attacker with both versions learns: a limit of every removal, not a fault of this one.

    Args:
        null: the same of these rows where as many others were forgotten instead: the scorer's own bias.
    """
    n = found.forgotten + found.kept
    note = (
        "Removal has to change what it removes, so this is a limit of every removal, and counts for who holds both versions. The version "
        "before is withdrawn, so that only who took a copy does; only noise in the released weights would hide more."
    )
    told = _shown(
        DIFFERENCING,
        BOTH,
        "AUC of telling forgotten from kept",
        found.auc,
        n,
        ci95=found.auc_ci95,
        null=_mean_and_largest([one.auc for one in null]),
        note=note,
    )
    blind = _shown(
        DIFFERENCING,
        BOTH,
        "AUC without labels",
        found.change_auc,
        n,
        ci95=found.change_ci95,
        null=_mean_and_largest([one.change_auc for one in null]),
        note=note,
    )
    return [told, blind, *_rates(DIFFERENCING, BOTH, found.rates, found.forgotten)]


def _mean_and_largest(values: Sequence[float]) -> tuple[float, float] | None:
    return (sum(values) / len(values), max(values)) if values else None


def _shown(
    audit: str,
    access: str,
    metric: str,
    value: float,
    n: int,
    *,
    ci95: tuple[float, float] | None = None,
    reference: float | None = None,
    limit: float | None = None,
    null: tuple[float, float] | None = None,
    note: str = "",
) -> Measured:
    """State a number that is only reported: without a threshold it decides nothing."""
    return Measured(
        audit=audit, access=access, metric=metric, value=value, ci95=ci95, n=n, reference=reference, limit=limit, null=null, note=note
    )
