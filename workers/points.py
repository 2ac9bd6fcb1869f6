"""Points: one way each to remove an attribute, written down so that it can be run again; and what running one gives."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from models.erase import irene, leace, lnl, quantized
from models.erase.attribute import Attributed
from models.erase.epochs import Watch
from models.erase.scope import extended
from models.nets import Adapter, Network
from models.nets.adapter import STOCHASTIC
from models.progress import Progress
from workers.failure import Failure

Scope = Literal["bottleneck", "network"]
Settings = irene.Irene | lnl.Lnl | quantized.Quantized | leace.Leace

_SETTINGS: dict[str, Any] = {"irene": irene.Irene, "lnl": lnl.Lnl, "quantized": quantized.Quantized, "leace": leace.Leace}


@dataclass(frozen=True)
class Recipe:
    """One point. With the rows and the version before it determines the network to the bit."""

    method: str
    scope: Scope
    settings: Mapping[str, Any]
    """Of the method, all of them, as JSON values."""
    seed: int
    noise: float | None = None
    after: bool = False
    """Whether it begins where the point before it ended, instead of at the version before."""

    @property
    def name(self) -> str:
        said = f"{self.method}, {self.scope}" if self.method != "leace" else "leace"
        return ("then " if self.after else "") + said + (f", noise {self.noise:g}" if self.noise else "")

    def document(self) -> dict[str, Any]:
        return asdict(self) | {"settings": dict(self.settings)}

    def how(self) -> Any:
        return _SETTINGS[self.method](**{k: tuple(v) if isinstance(v, list) else v for k, v in self.settings.items()})


def recipe_of(document: Mapping[str, Any]) -> Recipe:
    return Recipe(**document)


def points_of(method: str, options: Mapping[str, Any], *, claim: str, erased_before: bool) -> list[Recipe]:
    """The points that a request asks to be tried, in order.

    Args:
        options: what the caller changed, by the method's schema.
        erased_before: an attribute was removed from the version before: only what comes after its bottleneck may move.
    """
    given = {name: value for name, value in options.items() if value is not None}
    seed, noise = given.pop("seed", 0), given.pop("noise", None)
    common: dict[str, Any] = {"seed": seed, "noise": noise}
    if method == "auto":
        return _auto(given, common, claim=claim, erased_before=erased_before)
    preset, scope = given.pop("preset", "strong"), given.pop("scope", "auto")
    scopes: tuple[Scope, ...] = ("bottleneck", "network") if scope == "auto" else (scope,)
    if method == "leace" or erased_before:
        scopes = ("bottleneck",)
    return [Recipe(method, at, _chosen(method, at, preset, given), **common) for at in scopes]


def _auto(given: Mapping[str, Any], common: Mapping[str, Any], *, claim: str, erased_before: bool) -> list[Recipe]:
    closed = Recipe("leace", "bottleneck", _chosen("leace", "bottleneck", "", {"balanced": True}), **common)
    if claim == "linear":
        return [closed]
    scopes: tuple[Scope, ...] = ("bottleneck",) if erased_before else ("bottleneck", "network")
    points = [Recipe("irene", scope, _chosen("irene", scope, "strong", given), **common) for scope in scopes]
    return [*points, replace(closed, after=True)]


def _chosen(method: str, scope: Scope, preset: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a method: its preset's, with what the caller changed.

    Raises:
        Failure: `options`, for values that do not go together.
    """
    start: Settings = _SETTINGS[method]()
    if method == "irene":
        start = {"strong": irene.strong(scope=scope), "paper": irene.PAPER, "paper_faces": irene.PAPER_FACES}[preset]
    try:
        return asdict(replace(start, **given))
    except ValueError as error:
        raise Failure("options", f"The options do not go together: {error}.") from error


def network_of(
    recipe: Recipe, before: Network, rows: Attributed, values: int, *, secret: bytes, watch: Watch, resume: Any, progress: Progress
) -> Network:
    """Run one point.

    Args:
        before: the network of the version before, or of the point before.
        secret: seeds the key of a stochastic adapter; the key is served with the version, this is not.

    Raises:
        Failure: `erasing`, with the reason that the mathematics gives.
    """
    links = len(before.architecture.adapter.parts) if before.architecture.adapter else 0
    run: Any = {"irene": irene, "lnl": lnl, "quantized": quantized, "leace": leace}[recipe.method].erase
    options = {"scope": recipe.scope, "seed": recipe.seed, "watch": watch, "resume": resume, "progress": progress}
    try:
        net: Network = run(before, rows, values, recipe.how(), **options)
        if recipe.noise:
            net = extended(net, Adapter(kind="noise", sigma=recipe.noise), seed=recipe.seed)
    except ValueError as error:
        raise Failure("erasing", f"The attribute could not be removed: {error}.") from error
    return keyed(net, secret, first=links)


def keyed(net: Network, secret: bytes, *, first: int) -> Network:
    """Give each new stochastic link a key of its own, 32 bytes that nobody can guess who does not hold the version."""
    adapter = net.architecture.adapter
    assert adapter is not None
    state: dict[str, Tensor] = {}
    for place, link in enumerate(adapter.parts):
        if place >= first and link.kind in STOCHASTIC:
            key = hmac.digest(secret, f"adapter key {place}".encode(), "sha256")
            state[f"adapter.{place}.key"] = torch.frombuffer(bytearray(key), dtype=torch.uint8)
    net.load_state_dict(net.state_dict() | state)
    return net.requires_grad_(False).eval()
