"""A version's network trained again on the same rows, from the same seed or another: what training alone makes of a score."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pyarrow as pa
from torch import Tensor

from models.linear.fit import trained
from models.nets import Network
from models.progress import Progress, never
from workers.artifacts import rows_with_role, samples_of
from workers.attributed import Material, material
from workers.failure import Failure
from workers.points import Recipe, network_of, recipe_of
from workers.recipe import architecture_of, named_failures, training_of
from workers.trying import Watcher

ELSEWHERE = 1 << 32
"""Added to the seeds of what is trained again. No request can name such a seed, so that none can be chosen by how it fares here."""


def network(plan: Mapping[str, Any], blocks: Iterable[pa.Table], *, seed: int = 0, progress: Progress) -> Network:
    """Train a network of the form that the model had before anything was removed from it, on the core rows among these.

    Args:
        seed: added to the training's own.

    Raises:
        Failure: `core_rows`, where fewer than 2 are left.
    """
    spec, shape = plan["spec"], tuple(plan["dataset"]["shape"])
    bare = dict(spec) | {"architecture": spec.get("before_erasing") or spec["architecture"]}
    rows = rows_with_role(blocks, "core")
    if len(rows) < 2:
        raise Failure("core_rows", "Fewer than 2 core rows are left: a core cannot be trained. Upload more core rows.")
    samples, form = samples_of(rows, shape, spec["classes"]), architecture_of(bare, shape, len(spec["classes"]))
    training = training_of(spec, form, len(samples))
    with named_failures():
        return trained(form, samples, replace(training, seed=training.seed + seed), progress, never)


def removed(recipe: Recipe, before: Network, rows: Material, *, secret: bytes, progress: Progress) -> tuple[Network, dict[str, Tensor]]:
    """Follow a recipe up to where it was once ended. Returns the network, and the method's own heads."""
    watch = Watcher(None, float("inf"), recipe)
    net = network_of(recipe, before, rows.trained, len(rows.values), secret=secret, watch=watch, resume=None, progress=progress)
    return net, watch.heads


def networks(plan: Mapping[str, Any], blocks: list[pa.Table], *, times: int, progress: Progress) -> Iterator[Network]:
    """Train a version's network again from other seeds, and remove again from each what was removed from it. None of them is served.

    Args:
        blocks: the rows that the model holds.

    Raises:
        Failure: an attribute could not be removed again.
    """
    spec, shape = plan["spec"], tuple(plan["dataset"]["shape"])
    erased = spec.get("erased") or ()
    done, whole = 0, times * (1 + len(erased))

    def part(_: str, fraction: float) -> None:
        progress("", (done + fraction) / whole)

    for number in range(1, times + 1):
        net, done = network(plan, blocks, seed=ELSEWHERE + number, progress=part), done + 1
        for entry in erased:
            rows = material(blocks, entry["name"], data=entry["data"], shape=shape, classes=spec["classes"])
            recipe, secret = recipe_of(entry["recipe"]), sha256(f"trained again {number}".encode()).digest()
            net, _ = removed(replace(recipe, seed=recipe.seed + ELSEWHERE + number), net, rows, secret=secret, progress=part)
            done += 1
        yield net
