"""What a model's record keeps of an attribute that was removed, and what a certificate says of it: the same, word for word."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from service import facts


def findings_of(removed: Iterable[Mapping[str, Any]]) -> tuple[facts.Finding, ...]:
    """The findings about each attribute: of this version, or restated from the statement under which it was removed."""
    return tuple(
        facts.Finding(**finding | {"ci95": tuple(finding["ci95"])}, attribute=entry["name"], measured_in=entry["statement"])
        for entry in removed
        for finding in entry["findings"]
    )


def attributes_of(removed: Iterable[Mapping[str, Any]]) -> tuple[facts.Attribute, ...]:
    return tuple(
        facts.Attribute(
            name=entry["name"],
            values=entry["values"],
            data=entry["data"],
            claim=entry["claim"],
            method=entry["method"],
            scope=entry["scope"],
            parameters=entry["parameters"],
            figures=tuple(facts.Figure(**figure) for figure in entry["figures"]),
            removed_in=entry["statement"],
        )
        for entry in removed
    )
