"""Figures: what audits found, drawn as SVG. The same numbers give the same bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from workers.curve import Point

INK, MUTED, GOOD, LIMIT = "#1b1f24", "#8a929a", "#1f6f5c", "#b3402a"


def trade_off(points: Sequence[Point], *, attribute: str, budget: float, least_accuracy: float) -> bytes:
    """Draw leakage against accuracy: each point tried with its 95 % limits, and the corner that the budget leaves.

    Args:
        points: at least one; the last of those that decide is drawn filled.
        budget: nats.
        least_accuracy: what the budget leaves of the accuracy.
    """
    from matplotlib import rc_context  # a second to import: paid by the jobs that draw
    from matplotlib.figure import Figure

    style: Any = {"svg.hashsalt": "expunge", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9, "text.color": INK,
             "axes.edgecolor": MUTED, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK}  # fmt: skip
    with rc_context(style):
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.axvline(budget, color=LIMIT, linewidth=1, linestyle="--")
        axes.axhline(least_accuracy, color=LIMIT, linewidth=1, linestyle="--")
        for point in points:
            decides = point.rows == "decides"
            colour = GOOD if decides else INK
            axes.plot([max(point.lower, 0.0), max(point.upper, 0.0)], [point.accuracy] * 2, color=colour, linewidth=1)
            axes.plot([max(point.leakage, 0.0)], [point.accuracy], marker="o", markersize=6 if decides else 4, color=colour,
                      markerfacecolor=colour if decides else "white", linestyle="none")  # fmt: skip
            label = f"{point.name} (decides)" if decides else point.name
            axes.annotate(label, (max(point.leakage, 0.0), point.accuracy), xytext=(5, 5), textcoords="offset points", fontsize=8)
        axes.set_xlim(left=0.0)
        axes.set_xlabel(f"what fresh probes find of {_plain(attribute)} (nats, 95 % limits)")
        axes.set_ylabel("accuracy on audit rows")
        axes.set_title("Points tried; dashed: the budget", fontsize=9, loc="left", color=MUTED)
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def _plain(text: str) -> str:
    """An attribute's name as it is: dollar signs would begin a formula."""
    return text.replace("$", r"\$")
