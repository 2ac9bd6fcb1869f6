"""A compose file as an engine reads it: variables filled in, profiles chosen, services in the order in which they need each other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

_VARIABLE = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>\w+)(?:(?P<how>:?[-?])(?P<else>[^}]*))?\}|(?P<bare>\w+))")
_TIME = re.compile(r"(\d+)(ms|s|m)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}


class Missing(Exception):
    """A variable that the file requires has no value. The message is the file's own."""


@dataclass(frozen=True)
class Service:
    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    needs: Mapping[str, str]
    """Other service -> the condition in which it must be: service_healthy or service_completed_successfully."""
    check: tuple[str, ...]
    """The health check's command, without CMD; empty if there is none."""
    patience: float
    """Seconds until a service that is not healthy counts as failed."""
    grace: float
    """Seconds between SIGTERM and SIGKILL."""
    built: bool
    """Of this repository, and not somebody else's image."""
    once: bool
    """Ends by itself, and is not started again."""
    ports: tuple[str, ...]


def read(path: Path, variables: Mapping[str, str]) -> list[Service]:
    """The services of the chosen profiles, each after those that it needs.

    Args:
        variables: what `${NAME}` stands for: the environment over .env. COMPOSE_PROFILES names profiles.

    Raises:
        Missing: `${NAME:?message}` without a value.
    """
    document = _filled(yaml.safe_load(path.read_text()), variables)
    profiles = set(filter(None, variables.get("COMPOSE_PROFILES", "").split(",")))
    chosen = {name: body for name, body in document["services"].items() if not body.get("profiles") or profiles & set(body["profiles"])}
    order = TopologicalSorter({name: set(body.get("depends_on", {})) for name, body in chosen.items()}).static_order()
    return [_service(name, chosen[name], variables) for name in order]


def dotenv(path: Path) -> dict[str, str]:
    """NAME=value lines; `#` begins a comment line."""
    lines = [line.strip() for line in path.read_text().splitlines()]
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    return {name.strip(): value.strip() for name, _, value in pairs}


def seconds(text: str) -> float:
    """`1m30s` as 90.0."""
    return sum(int(number) * _SECONDS[unit] for number, unit in _TIME.findall(text))


def _service(name: str, body: Mapping[str, Any], variables: Mapping[str, str]) -> Service:
    check = body.get("healthcheck", {})
    # A variable without a value is taken over from outside, if it has one there.
    given = {key: variables.get(key) if value is None else str(value) for key, value in body.get("environment", {}).items()}
    return Service(
        name=name,
        command=tuple(map(str, body.get("command", ()))),
        environment={key: value for key, value in given.items() if value is not None},
        needs={other: how["condition"] for other, how in body.get("depends_on", {}).items()},
        check=tuple(map(str, check.get("test", ())))[1:],
        patience=seconds(check.get("start_period", "0s")) + seconds(check.get("interval", "30s")) * int(check.get("retries", 3)),
        grace=seconds(body.get("stop_grace_period", "10s")),
        built="build" in body,
        once=body.get("restart") == "no",
        ports=tuple(map(str, body.get("ports", ()))),
    )


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(inner, variables) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, variables) for inner in value]
    return _VARIABLE.sub(lambda found: _value(found, variables), value) if isinstance(value, str) else value


def _value(found: re.Match[str], variables: Mapping[str, str]) -> str:
    if found["dollar"]:
        return "$"
    value = variables.get(found["name"] or found["bare"])
    how = found["how"] or ""
    absent = value is None or (not value and how.startswith(":"))
    if absent and how.endswith("?"):
        raise Missing(f"{found['name']}: {found['else']}")
    return (found["else"] or "") if absent else value or ""
