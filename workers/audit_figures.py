"""What audits found, drawn, with the numbers beside it: ROC in log-log, probe bars with their intervals."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from models.audit import membership
from models.audit.interval import Interval
from models.audit.membership import Attack, Shadows
from models.audit.probe import Probed
from models.audit.utility import Utility
from workers.figures import GOOD, INK, LIMIT, MUTED

Curve = list[tuple[float, float]]


def curve(audited: Tensor, played: Shadows) -> Curve:
    """(false-positive rate, true-positive rate) of the attack, down to where one non-member score in ten is left.

    The ratios are those of `models.audit.membership.attack`; a retrained model is scored by Gaussians fitted without it.
    """
    seen, unseen = played.seen.numpy(), played.unseen.numpy()
    target = audited.numpy().astype(np.float64)
    inside = membership._gaussian(seen)
    ratios = membership._log_density(target, inside) - membership._log_density(target, membership._gaussian(unseen))
    null = (membership._log_density(unseen, inside) - membership._log_density(unseen, membership._without_each(unseen))).ravel()
    fprs = np.geomspace(max(10 / null.size, 1e-4), 1, 25)
    return [(float(fpr), membership.true_positive_rate(ratios, null, float(fpr))) for fpr in fprs]


def roc(found: Attack, canaries: Attack, curves: tuple[Curve, Curve]) -> bytes:
    """Draw true-positive against false-positive rates in log-log; intervals where a rate is stated."""
    axes, save = _axes(5.2, 4.0)
    grid = np.geomspace(5e-4, 1, 50)
    axes.plot(grid, grid, color=MUTED, linewidth=1, linestyle="--", label="guessing")
    groups = (("samples of this version", found, INK), ("planted canaries", canaries, GOOD))
    for (name, attack, colour), points in zip(groups, curves, strict=True):
        x, y = [fpr for fpr, _ in points], [max(tpr, 5e-4) for _, tpr in points]
        axes.plot(x, y, color=colour, linewidth=1.2, label=f"{name}: AUC {attack.auc:.3f}, retrained {attack.auc_null:.3f}")
        for rate in attack.rates:
            if rate.ci95 is not None:
                axes.plot([rate.fpr] * 2, [max(bound, 5e-4) for bound in rate.ci95], color=colour, linewidth=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("false-positive rate")
    axes.set_ylabel("true-positive rate (95 % intervals)")
    axes.legend(fontsize=7, frameon=False)
    drawn: bytes = save()
    return drawn


def roc_csv(found: Attack, canaries: Attack) -> bytes:
    rows: list[Sequence[Any]] = []
    for name, attack in (("samples", found), ("canaries", canaries)):
        rows.append((name, "auc", "", attack.auc, *attack.auc_ci95, attack.auc_null, attack.auc_limit, attack.targets))
        rows.append((name, "distance", "", attack.distance, "", "", attack.distance_null, attack.distance_limit, attack.targets))
        for rate in attack.rates:
            value = "not estimable" if rate.value is None else rate.value
            rows.append((name, "tpr", rate.fpr, value, *(rate.ci95 or ("", "")), *(rate.null or ("", "")), attack.targets))
    return table(("group", "metric", "fpr", "value", "low", "high", "null", "null_limit", "n"), rows)


def classes(counted: Utility, null: Sequence[Utility], names: Sequence[Any]) -> bytes:
    """Draw accuracy by class with its 95 % interval and, in grey, that of retrained versions; classes of too few rows have no bar."""
    axes, save = _axes(5.2, 3.2)
    for place, cell in enumerate(counted.by_class):
        if cell is not None:
            axes.bar([place], [cell.value], width=0.5, color=INK)
            axes.plot([place] * 2, list(cell.ci95), color=LIMIT, linewidth=1.5)
            others = [one.value for one in (refit.by_class[place] for refit in null) if one is not None]
            axes.plot([place + 0.32] * len(others), others, "_", color=MUTED, markersize=7)
    axes.set_xticks(range(len(names)), [str(name).replace("$", r"\$") for name in names])
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("accuracy (95 % intervals)")
    axes.set_title("By class; no bar: withheld; strokes: retrained versions", fontsize=8, loc="left", color=MUTED)
    drawn: bytes = save()
    return drawn


def errors(found: Sequence[tuple[str, str, float | None, tuple[float, float] | None]]) -> bytes:
    """Draw each version's error on each group of rows with its 95 % interval.

    Args:
        found: (rows, version, error, interval) of each.
    """
    axes, save = _axes(5.2, 3.2)
    versions, groups = list(dict.fromkeys(one[1] for one in found)), list(dict.fromkeys(one[0] for one in found))
    for number, version in enumerate(versions):
        colour = (LIMIT, GOOD, INK)[number % 3]
        cells = [(groups.index(group) + 0.2 * number, error, interval) for group, name, error, interval in found if name == version]
        axes.plot([x for x, _, _ in cells], [error for _, error, _ in cells], "o", color=colour, markersize=4, label=version)
        for x, _, interval in cells:
            axes.plot([x] * 2, list(interval or ()), color=colour, linewidth=1.5)
    axes.set_xticks([place + 0.2 for place in range(len(groups))], [f"{group} rows" for group in groups])
    axes.set_ylim(bottom=0)
    axes.set_ylabel("error (95 % intervals)")
    axes.legend(fontsize=7, frameon=False)
    drawn: bytes = save()
    return drawn


def probes(
    found: Probed, null: Sequence[Probed], anew: Sequence[Probed], attribute: str, budget: float, between: Interval
) -> bytes:
    """Draw each probe's V-information with its interval, its nulls beside it, the leakage interval, all there is and the threshold.

    Args:
        null: where the values were dealt out anew.
        anew: of retrained versions.
    """
    axes, save = _axes(5.2, 3.2)
    for place, one in enumerate(found.probes):
        axes.bar([place], [max(one.v_information, 0.0)], width=0.5, color=INK)
        axes.plot([place] * 2, list(one.ci95), color=LIMIT, linewidth=1.5)
        axes.plot([place + 0.32] * len(null), [dealt.probes[place].v_information for dealt in null], "_", color=MUTED, markersize=7)
        axes.plot([place - 0.32] * len(anew), [other.probes[place].v_information for other in anew], "x", color=INK, markersize=5)
    axes.axhline(budget, color=LIMIT, linewidth=1, linestyle="--")
    axes.axhline(found.entropy, color=MUTED, linewidth=1, linestyle=":")
    place = len(found.probes)
    axes.bar([place], [max(between.upper - between.lower, 0.0)], bottom=[between.lower], width=0.5, color=MUTED, alpha=0.5)
    axes.set_xticks(range(place + 1), [*(one.name for one in found.probes), f"between\n({between.how})"])
    axes.set_ylabel(f"found of {attribute} (nats)".replace("$", r"\$"))
    said = "Dashed: threshold; dotted: all; strokes: values dealt anew; crosses: retrained"
    axes.set_title(said, fontsize=8, loc="left", color=MUTED)
    drawn: bytes = save()
    return drawn


def probes_csv(found: Probed, null: Sequence[Probed], anew: Sequence[Probed]) -> bytes:
    """A line a probe; `null` holds what it found each time that the values were dealt out anew, `anew` what in each retrained version."""
    rows: list[Sequence[Any]] = []
    for place, one in enumerate(found.probes):
        dealt = [other.probes[place].v_information for other in null]
        said = (one.v_information, *one.ci95, one.upper95, one.lower95, one.balanced_accuracy, one.majority)
        rows.append((one.name, *said, sum(dealt) / len(dealt), max(dealt), len(dealt),
                     *_range([other.probes[place].v_information for other in anew]), len(anew), found.n))  # fmt: skip
    header = ("probe", "v_information_nats", "low", "high", "upper95", "lower95", "balanced_accuracy", "majority",
              "null_mean", "null_largest", "null_deals", "retrained_smallest", "retrained_largest", "retrainings", "n")  # fmt: skip
    return table(header, rows)


def _range(values: Sequence[float]) -> tuple[Any, Any]:
    return (min(values), max(values)) if values else ("", "")


def interval_csv(between: Interval) -> bytes:
    """Both ends of a leakage interval, and for whom the upper one holds."""
    low, high = between.measured_ci95 or ("", "")
    measured = "" if between.measured is None else between.measured
    row = (between.how, between.lower, between.upper, between.by, between.access, between.entropy, measured, low, high)
    return table(("how", "lower_nats", "upper_nats", "by", "access", "entropy_nats", "monte_carlo_nats", "low", "high"), [row])


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """Numbers as CSV, eight digits each."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow([f"{cell:.8g}" if isinstance(cell, float) else cell for cell in row])
    return out.getvalue().encode()


def _axes(width: float, height: float) -> tuple[Any, Any]:
    """A figure of one plot, and what writes it as SVG; the same numbers give the same bytes."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style: Any = {"svg.hashsalt": "expunge", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}
    with rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)

    def save() -> bytes:
        out = io.BytesIO()
        with rc_context(style):
            figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
        return out.getvalue()

    return axes, save
