"""Removing an attribute, as the command line asks for it, and what was found of it, in plain words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from expunge import show

LEAKAGE, LINEAR, DROP = "v_information_upper95_nats", "linear_v_information_upper95_nats", "accuracy_drop"


def options(texts: Sequence[str]) -> dict[str, Any]:
    """Read NAME=VALUE texts; VALUE is a JSON number, true or false, or a word.

    Raises:
        typer.BadParameter: a text has no name or no `=`.
    """
    read: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"--option takes NAME=VALUE, not {text!r}")
        try:
            read[name] = json.loads(value)
        except ValueError:
            read[name] = value
    return read


def tell(found: Mapping[str, Any]) -> None:
    """Say what became of an attribute: its findings against what was asked for, and what else is known."""
    for line in sentences(found):
        show.say(f"  {line}")


def sentences(found: Mapping[str, Any]) -> list[str]:
    """The same, a sentence a line.

    Args:
        found: `dispositions.attribute` of a request, or an entry of `removed` of a version.
    """
    figures = {figure["name"]: figure for figure in found["figures"]}
    said = []
    for finding in found["findings"]:
        said += _of_leakage(found, finding, figures) if finding["metric"] in (LEAKAGE, LINEAR) else _of_accuracy(finding, figures)
    best = max((figures[f"{name}.v_information_nats"] for name in ("linear", "mlp", "trees")), key=lambda one: float(one["value"]))
    said.append(f"Best estimate of any probe: {_nats(best['value'])}, by the {best['name'].split('.')[0]} probe.")
    bounds = [figure for figure in found["figures"] if figure["name"] == "leakage_interval.upper"]
    said += [f"The leakage lies below {_nats(bound['value'])} for {bound['access']}." for bound in bounds]
    if "own_head.balanced_accuracy" in figures:
        own = figures["own_head.balanced_accuracy"]
        said.append(f"The method's own head names {_percent(own['value'])} rightly; it decides nothing.")
    if found["data"] == "all":
        said.append("User rows were trained on as well: the core holds user data, and forgetting a sample trains it again.")
    return said


def _of_leakage(found: Mapping[str, Any], finding: Mapping[str, Any], figures: Mapping[str, Any]) -> list[str]:
    readers = "linear readers" if finding["metric"] == LINEAR else "fresh probes (linear, MLP, trees)"
    whole = figures["attribute_entropy_nats"]["value"]
    sign = "ok" if float(finding["value"]) <= float(finding["threshold"]) else "TOO MUCH"
    most, before = (_nats(text) + (" (cut at H(v))" if text == whole else "") for text in (finding["value"], finding["reference"]))
    return [
        f"{sign}: {readers} find at most {most} of {found['name']} (asked for: {finding['threshold']}); "
        f"all of it would be {_nats(whole)}, and with nothing removed they find up to {before}.",
        f"The probes caught {finding['caught']} of {finding['planted']} leaks planted for them, on {finding['n']} balanced rows.",
    ]


def _of_accuracy(finding: Mapping[str, Any], figures: Mapping[str, Any]) -> list[str]:
    sign = "ok" if finding["passed"] else "TOO MUCH"
    low, high = map(_points, finding["ci95"])
    said = f"{sign}: {_points(finding['value'])} of accuracy are lost against the same model with nothing removed "
    said += f"(allowed: {_points(finding['threshold'])}; {finding['n']} rows, 95 % interval {low} to {high})"
    parent = figures.get("accuracy_drop_from_parent")
    return [said + (f", {_points(parent['value'])} against the version before." if parent else ".")]


def _nats(text: str) -> str:
    return f"{float(text):.3g} nats"


def _points(text: str) -> str:
    return f"{100 * float(text):.2f} points"


def _percent(text: str) -> str:
    return f"{100 * float(text):.0f} %"
