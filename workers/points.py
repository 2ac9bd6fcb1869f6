"""Points: one way each to remove an attribute, written down so that it can be run again; and what running one gives."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from models.erase import auto, irene, leace, lnl, quantized
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

    name: str
    method: str
    scope: Scope
    settings: Mapping[str, Any]
    """Of the method, all of them, as JSON values."""
    seed: int
    noise: float | None = None
    leace_last: bool = False
    """Whether LEACE follows: what is left for a linear reader then goes too."""
    ended: int | None = None
    """After which epoch it was ended, once it has been run: a schedule planned for more is repeated up to there."""

    @property
    def methods(self) -> str:
        """What a certificate calls it."""
        return f"{self.method}+leace" if self.leace_last else self.method

    def document(self) -> dict[str, Any]:
        return asdict(self) | {"settings": dict(self.settings)}

    def how(self) -> Any:
        return _SETTINGS[self.method](**{k: tuple(v) if isinstance(v, list) else v for k, v in self.settings.items()})


def recipe_of(document: Mapping[str, Any]) -> Recipe:
    return Recipe(**document)


def points_of(method: str, options: Mapping[str, Any], *, rows: Attributed, values: int, claim: str, erased_before: bool) -> list[Recipe]:
    """The points that a request asks to be tried, in order.

    Args:
        options: what the caller changed, by the method's schema.
        rows, values: to learn from; how many and how biased they are settles some settings.
        erased_before: an attribute was removed from the version before: only what comes after its bottleneck may move.

    Raises:
        Failure: `options`, for values that do not go together.
    """
    given = {name: value for name, value in options.items() if value is not None}
    seed, noise = given.pop("seed", 0), given.pop("noise", None)
    preset, scope = given.pop("preset", "strong"), given.pop("scope", "auto")
    tried: list[tuple[str, str, Scope, Settings, bool, float | None]]
    if method == "auto":
        planned = auto.points(rows, values, linear=claim == "linear")
        tried = [(p.name, "leace" if isinstance(p.how, leace.Leace) else "irene", p.scope, p.how, p.leace_last, p.noise) for p in planned]
    else:
        scopes: tuple[Scope, ...] = ("bottleneck", "network") if scope == "auto" else (scope,)
        scopes = ("bottleneck",) if method == "leace" else scopes
        tried = [(f"{method}, {at}", method, at, _preset(method, preset, rows, values, at), False, None) for at in scopes]
    if erased_before:
        tried = [one for one in tried if one[2] == "bottleneck"]
    return [Recipe(name, by, at, _changed(how, given), seed, noise or own, last) for name, by, at, how, last, own in tried]


def _preset(method: str, preset: str, rows: Attributed, values: int, scope: Scope) -> Settings:
    if method == "irene":
        strong = irene.strong(len(rows), scope=scope, biased=auto.is_biased(rows, values))
        return {"strong": strong, "paper": irene.PAPER, "paper_faces": irene.PAPER_FACES}[preset]
    start: Settings = _SETTINGS[method]()
    return start


def _changed(how: Settings, given: Mapping[str, Any]) -> dict[str, Any]:
    known = {field.name for field in fields(how)}
    try:
        return asdict(replace(how, **{name: value for name, value in given.items() if name in known}))
    except ValueError as error:
        raise Failure("options", f"The options do not go together: {error}.") from error


def network_of(
    recipe: Recipe, before: Network, rows: Attributed, values: int, *, secret: bytes, watch: Watch, resume: Any, progress: Progress
) -> Network:
    """Run one point.

    Args:
        before: the network of the version before.
        secret: seeds the key of a stochastic adapter; the key is served with the version, this is not.

    Raises:
        Failure: `erasing`, with the reason that the mathematics gives.
    """
    links = len(before.architecture.adapter.parts) if before.architecture.adapter else 0
    run: Any = {"irene": irene, "lnl": lnl, "quantized": quantized, "leace": leace}[recipe.method].erase
    options = {"scope": recipe.scope, "seed": recipe.seed, "watch": watch, "resume": resume, "progress": progress}
    try:
        net: Network = run(before, rows, values, recipe.how(), **options)
        if recipe.leace_last:
            net = leace.erase(net, rows, values, leace.Leace(), seed=recipe.seed)
        if recipe.noise:
            net = extended(net, Adapter(kind="noise", sigma=recipe.noise), seed=recipe.seed)
    except ValueError as error:
        raise Failure("erasing", f"The attribute could not be removed: {error}.") from error
    return keyed(net, secret, first=links)


def link_of(recipe: Recipe, classes: int) -> Adapter:
    """What a method itself puts after the bottleneck, without the LEACE and the noise that may follow."""
    how = recipe.how()
    if recipe.method == "leace":
        return Adapter(kind="affine")
    if recipe.method == "quantized":
        return Adapter(kind="quantized", bits=how.bits)
    if recipe.method == "irene":
        return irene.adapter(how, classes, recipe.scope)
    return Adapter(kind="identity") if recipe.scope == "network" else Adapter(kind="mlp", hidden=(how.hidden,), skip=True)


def network_at(recipe: Recipe, before: Network, state: Mapping[str, Tensor], *, secret: bytes) -> Network:
    """The network of a point while it learns, as it would be served, from the state that its watch is given."""
    links = len(before.architecture.adapter.parts) if before.architecture.adapter else 0
    net = extended(before, link_of(recipe, before.architecture.classes), seed=recipe.seed)
    net.load_state_dict({name[len("net.") :]: value for name, value in state.items() if name.startswith("net.")})
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
