"""Points are tried in order until one is within the budget: measured, kept for a crash, and the best of them remembered."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

from torch import Tensor

from models.audit.balance import level_after
from models.audit.probe import Probed
from models.nets import Network, build
from workers.artifacts import Shelf, pack_weights, unpack_weights
from workers.attributed import Material
from workers.curve import Point, point_of
from workers.judging import Asked, choosing, worth
from workers.points import Recipe, network_at, network_of, recipe_of
from workers.recipe import architecture_of
from workers.refitting import Refitted, core_on, own_accuracy, plain, refitted, right_of
from workers.report import Report

HEADS = "heads."
"""Tensors of a method's own private heads, as its state names them."""


@dataclass(frozen=True)
class Ground:
    """What every point is tried on."""

    plan: Mapping[str, Any]
    shelf: Shelf
    report: Report
    rows: Material
    asked: Asked
    classes: list[Any]
    before: Network
    """Of the version before."""
    reference: Refitted
    """The version before, refitted on the taps that an erased one may have."""
    blocks: Callable[[], Any]
    secret: bytes

    @property
    def looks(self) -> int:
        """Earlier looks at the rows that decide."""
        return int(self.plan["looks"])

    @property
    def level(self) -> float:
        """Of upper limits, so that 95 % hold over all of them."""
        return level_after(self.looks)

    def refitted(self, net: Network) -> Refitted:
        """A network as a whole model."""
        core = core_on(self.plan["spec"], net, self.rows.core.samples, progress=lambda part, fraction: None)
        return refitted(core, self.rows.core.samples, self.blocks, self.classes, progress=lambda number: None)

    def network(self, form: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Network:
        """A network from its written form and weights."""
        shape = tuple(self.plan["dataset"]["shape"])
        net = build(architecture_of({"architecture": form}, shape, len(self.classes)), 0)
        net.load_state_dict({name[len("net.") :]: value for name, value in tensors.items() if name.startswith("net.")})
        return net.requires_grad_(False).eval()


@dataclass
class Best:
    """The point that came nearest so far."""

    recipe: Recipe
    excess: float
    net: Network
    heads: dict[str, Tensor]
    blob: str = ""


@dataclass
class Tries:
    """The points tried so far, and the best of them."""

    ground: Ground
    recipes: list[Recipe]
    points: list[Point] = field(default_factory=list)
    best: Best | None = None

    def go_on(self) -> dict[str, Tensor] | None:
        """Take up where an earlier claim of the job came to. Returns the state of the point that it was at."""
        kept, ground = self.ground.plan.get("checkpoint"), self.ground
        if not kept:
            return None
        self.points = [point_of(document) for document in kept["points"]]
        if kept["best"]:
            tensors = unpack_weights(ground.shelf.vault.read(kept["blobs"]["best"]))
            net = ground.network(kept["best"]["form"], tensors)
            heads = {name: value for name, value in tensors.items() if name.startswith(HEADS)}
            self.best = Best(recipe_of(kept["best"]["recipe"]), kept["best"]["excess"], net, heads, kept["blobs"]["best"])
        return unpack_weights(ground.shelf.vault.read(kept["blobs"]["state"])) if "state" in kept["blobs"] else None

    def keep(self, state: Mapping[str, Tensor] | None = None) -> None:
        """Hand over a checkpoint: the points so far, the best of them, and the state of the one at work."""
        best, shelf = self.best, self.ground.shelf
        blobs = {}
        if state is not None:
            blobs["state"] = shelf.put(pack_weights(dict(state))).blob_id
        if best is not None:
            if not best.blob:
                net = {f"net.{name}": value for name, value in best.net.state_dict().items()}
                best.blob = shelf.put(pack_weights(net | best.heads)).blob_id
            blobs["best"] = best.blob
        said = None
        if best is not None:
            said = {"recipe": best.recipe.document(), "excess": best.excess, "form": plain(best.net.architecture)}
        self.ground.report.keep({"blobs": blobs, "points": [p.document() for p in self.points], "best": said})

    def run(self) -> None:
        """Try the points that are left, and stop at the first within the budget."""
        state = self.go_on()
        for number, recipe in enumerate(self.recipes):
            if number < len(self.points):
                if self.best is not None and self.best.excess == 0.0:
                    return
                continue
            if self._one(number, recipe, state):
                return
            state = None

    def _one(self, number: int, recipe: Recipe, resume: Any) -> bool:
        ground, begun = self.ground, time.perf_counter()
        ground.report.phase(phase_of(number, recipe))
        watch = Watcher(self, float(ground.plan["checkpoint_seconds"]), recipe)
        if resume is not None:
            watch.began_at(int(resume["done"]), resume)
        net = network_of(
            recipe, ground.before, ground.rows.trained, len(ground.rows.values), secret=ground.secret, watch=watch, resume=resume,
            progress=lambda part, fraction: ground.report.progress("", 0.7 * fraction),
        )  # fmt: skip
        whole = ground.refitted(net)
        chooses = ground.rows.chooses.samples
        right, compared = right_of(whole, chooses).double().mean(), right_of(ground.reference, chooses).double().mean()
        drop = float(compared - right)

        def tell(part: str, done: float) -> None:
            ground.report.progress("", 0.8 + 0.2 * done)

        found = choosing(net, ground.rows, classes=len(ground.classes), level=ground.level, progress=tell)
        spent = time.perf_counter() - begun
        self.points.append(point(recipe.name, "chooses", found, accuracy=float(right), drop=drop, seconds=spent, epochs=watch.epochs))
        excess = ground.asked.excess(found, drop, rows=worth(ground.rows.decides, len(ground.rows.values)))
        if self.best is None or excess < self.best.excess:
            self.best = Best(replace(recipe, ended=watch.epochs or None), excess, net, watch.heads)
        self.keep()
        return excess == 0.0


class Watcher:
    """Told after every epoch of a point: keeps a checkpoint every so many seconds, and ends the point early once it is good enough."""

    def __init__(self, tries: Tries | None, every: float, recipe: Recipe | None = None) -> None:
        """
        Args:
            tries: where checkpoints go; None keeps none, and ends the point where its recipe says that it was ended.
            every: seconds between two of them.
            recipe: of the point.
        """
        self._tries, self._every, self._kept = tries, every, time.monotonic()
        self._recipe = recipe
        self.epochs = 0
        self.heads: dict[str, Tensor] = {}

    def began_at(self, number: int, state: Mapping[str, Tensor]) -> None:
        """Take note of how far the point is."""
        self.epochs = number
        self.heads = {name: value for name, value in state.items() if name.startswith(HEADS)}

    def epoch(self, number: int, state: Mapping[str, Tensor]) -> bool:
        self.began_at(number, state)
        looked = self._recipe is not None and number in looks(int(self._recipe.settings["epochs"]))
        # Not where a look may end the point: who went on from there would not know that it was to end.
        if self._tries is not None and not looked and time.monotonic() - self._kept >= self._every:
            self._tries.keep(state)
            self._kept = time.monotonic()
        if self._tries is None:
            return self._recipe is not None and number == self._recipe.ended
        return self._within(number, state)

    def _within(self, number: int, state: Mapping[str, Tensor]) -> bool:
        """Whether the rows that choose already show the budget kept: looked at twice, since every look may be lucky."""
        tries, recipe = self._tries, self._recipe
        if tries is None or recipe is None or number not in looks(int(recipe.settings["epochs"])):
            return False
        ground = tries.ground
        net = network_at(recipe, tries.ground.before, state, secret=ground.secret)
        found = choosing(net, ground.rows, classes=len(ground.classes), level=ground.level, progress=lambda part, done: None)
        drop = own_accuracy(ground.before, ground.rows.chooses.samples) - own_accuracy(net, ground.rows.chooses.samples)
        return ground.asked.excess(found, drop, rows=worth(ground.rows.decides, len(ground.rows.values))) == 0.0


def looks(epochs: int) -> set[int]:
    """After which epochs a point is looked at before its end."""
    return {ceil(epochs / 2), ceil(3 * epochs / 4)} - {epochs}


def phase_of(number: int, recipe: Recipe) -> str:
    return f"point {number + 1}: {recipe.name}"


def point(name: str, rows: Any, found: Probed, *, accuracy: float, drop: float, seconds: float, epochs: int) -> Point:
    linear = next(one for one in found.probes if one.name == "linear")
    return Point(
        name=name, rows=rows, accuracy=accuracy, drop=drop, leakage=found.leakage, lower=found.lower, upper=found.upper,
        linear=linear.v_information, linear_upper=linear.upper95, n=found.n, seconds=round(seconds, 3), epochs=epochs,
    )  # fmt: skip
