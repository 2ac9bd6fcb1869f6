"""A version as an audit finds it: what it answers to any rows, and the audit rows' two halves."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from models.data import Samples
from models.linear.core import Core, encode, load_core, logits_of_rows
from models.linear.statistics import Statistics
from models.linear.whole import WholeCore, logits
from models.nets import Network
from models.progress import Progress, silent
from service.policies import AUDITS
from workers import again, halves, linearised
from workers.artifacts import (
    NamedRows,
    Shelf,
    concat_rows,
    in_final_half,
    rows_with_role,
    samples_of,
    unpack_rows,
    unpack_statistics,
    unpack_table,
    unpack_weights,
)
from workers.attributed import tables
from workers.failure import ENDS_EARLY, Failure, ended_early
from workers.halves import Halves
from workers.null import Null, Reads
from workers.recipe import architecture_of
from workers.refitting import core_on, refitted
from workers.solved import Solved, solved

UPLOADED = "The model's core was uploaded: how it was trained is not known, and no retraining stands beside these scores."
HALVES = "refits on a random half of the user samples each"
ON_USERS = "The network itself was trained on user samples (data: all): user weights refitted on halves of them are no retraining."


@dataclass(frozen=True)
class Sums:
    """What a model of fixed features keeps, so that it can be refitted in a moment."""

    core: Core
    weights: Tensor
    statistics: Statistics
    users: NamedRows
    test: NamedRows | None
    """The audit rows' final half."""
    base: Statistics
    """Of the core rows alone."""


@dataclass(frozen=True)
class Audited:
    """A version to be measured."""

    plan: Mapping[str, Any]
    shelf: Shelf
    classes: list[Any]
    weights: Tensor
    """User weights, as served."""
    reads: Reads
    chooses: Samples
    """The audit rows' validation half: what an audit may learn from."""
    decides: Samples
    """Their final half: what it is judged on."""
    core: Core | None
    """None of a linearised model."""
    progress: Progress = silent
    """Told how far the fitting of what stands beside it is."""

    def answers(self, rows: Samples) -> Tensor:
        """Logits `[n, C]` float64, as served."""
        return self.reads(rows)(self.weights)

    def bare(self, rows: Samples) -> Tensor:
        """The same with user weights of zero: what the model would say had nobody but the core been there."""
        return self.reads(rows)(torch.zeros_like(self.weights))

    @cached_property
    def held(self) -> set[str]:
        """Ids of all samples that the model holds."""
        return ids_of(self.plan, self.shelf)

    def fit_again(self, audits: Collection[str]) -> None:
        """Fit what stands beside the scores of these audits."""
        if set(audits) - {"membership"}:
            _ = self.null
        if "probes" in audits and self.core is not None and self.core.net is not None:
            _ = self.anew

    @property
    def saw_users(self) -> bool:
        """Whether the network itself was trained on user samples."""
        return any(entry["data"] == "all" for entry in self.plan["spec"].get("erased") or ())

    @cached_property
    def null(self) -> Null:
        """What stands beside the version's scores: it, retrained."""
        if self.saw_users:
            return self._whole_again()
        found = self._halves()
        return Null(tuple((self.reads, weights) for weights in found.weights), HALVES, found.why)

    def _halves(self) -> Halves:
        if self.core is None:
            return halves.of_linearised(self.solved, lambda done: self.progress("", done))
        if not self.plan["blocks"]:
            return Halves((), halves.NOBODY)
        sums = self.sums
        return halves.of_fixed_features(self.core, sums.base, sums.users.rows)

    @cached_property
    def solved(self) -> Solved:
        """How a linearised version is fitted again."""
        return solved(self.plan, self.shelf, self.held)

    def blocks(self) -> list[tuple[int, pa.Table]]:
        """The rows that the model holds, by the data set's blocks."""
        return list(tables(self.plan, self.shelf, self.held))

    @cached_property
    def anew(self) -> tuple[tuple[Network, ...], str]:
        """Networks trained again from other seeds, and why they are fewer than were to be."""
        if self.plan["spec"]["core"] != "train":
            return (), UPLOADED
        found: list[Network] = []
        times = AUDITS["audits"]["probes"]["retrainings"]
        try:
            found.extend(again.networks(self.plan, [block for _, block in self.blocks()], times=times, progress=self.progress))
        except ENDS_EARLY as error:  # what is found of the version itself does not depend on how another seed fares
            return tuple(found), ended_early(error)
        return tuple(found), ""

    def _whole_again(self) -> Null:
        spec, (nets, why) = self.plan["spec"], self.anew
        shape = tuple(self.plan["dataset"]["shape"])
        core_rows = samples_of(rows_with_role([block for _, block in self.blocks()], "core"), shape, self.classes)
        versions = []
        try:
            for net in nets:
                core = core_on(spec, net, core_rows, progress=silent)
                whole = refitted(core, core_rows, self.blocks, self.classes, progress=lambda number: None)
                versions.append((partial(_fixed, core), whole.weights))
        except ENDS_EARLY as error:
            why = ended_early(error)
        return Null(tuple(versions), "versions trained again from other seeds", f"{why} {ON_USERS}".strip())

    @cached_property
    def sums(self) -> Sums:
        """What refitting a model of fixed features needs; all integer rows of user samples are read, once."""
        assert self.core is not None
        vault = self.shelf.vault
        blocks = [unpack_rows(vault.read(blob)) for _, blob in self.plan["blocks"]]
        if not blocks:
            raise Failure("audit_rows", "The model holds no user sample: there is nobody whose membership could show.")
        weights = unpack_weights(vault.read(self.plan["files"]["user.safetensors"]["blob"]))["user.weight"]
        state = self.plan["state"]
        test = unpack_rows(vault.read(state["audit"])) if "audit" in state else None
        sums, base = (unpack_statistics(vault.read(state[name])) for name in ("statistics", "core_statistics"))
        return Sums(self.core, weights, sums, concat_rows(blocks), test, base)


def load(plan: Mapping[str, Any], shelf: Shelf, progress: Progress = silent) -> Audited:
    """Read a version and the audit rows that its model holds.

    Args:
        progress: told how far the fitting of what stands beside it is, when that is done.

    Raises:
        Failure: it was withdrawn meanwhile; too few audit rows.
    """
    if not plan["certified"]:
        raise Failure("version_withdrawn", "The version was withdrawn before its audit began. Audit the latest.")
    spec, shape = plan["spec"], tuple(plan["dataset"]["shape"])
    blocks = [block for _, block in tables(plan, shelf, ids_of(plan, shelf))]
    audit = rows_with_role(blocks, "audit") if blocks else []
    if not len(audit):
        raise Failure("audit_rows", "The model holds no row of role audit any more: nothing can be measured.")
    rows = samples_of(audit, shape, spec["classes"])
    final = torch.tensor([in_final_half(i) for i in rows.ids], dtype=torch.bool)
    kept: dict[str, Any] = {"chooses": rows.select(~final), "decides": rows.select(final), "progress": progress}
    if spec.get("linearize"):
        held = linearised.load(plan, shelf)
        return Audited(plan, shelf, spec["classes"], held.weights, partial(_whole, held.core), core=None, **kept)
    core = load_core(architecture_of(spec, shape, len(spec["classes"])), unpack_weights(shelf.vault.read(_blob(plan, "core"))))
    weights = unpack_weights(shelf.vault.read(_blob(plan, "user")))["user.weight"]
    return Audited(plan, shelf, spec["classes"], weights, partial(_fixed, core), core=core, **kept)


def ids_of(plan: Mapping[str, Any], shelf: Shelf) -> set[str]:
    """Ids of all samples that the model holds."""
    return set(unpack_table(shelf.vault.read(plan["state"]["index"]))["sample_id"].to_pylist())


def _blob(plan: Mapping[str, Any], name: str) -> str:
    blob: str = plan["files"][f"{name}.safetensors"]["blob"]
    return blob


def _fixed(core: Core, rows: Samples) -> Callable[[Tensor], Tensor]:
    read = encode(core, rows.inputs, rows.labels)
    return lambda weights: logits_of_rows(core, weights, read, rows.labels)


def _whole(core: WholeCore, rows: Samples) -> Callable[[Tensor], Tensor]:
    return lambda weights: logits(core, weights, rows.inputs).double()
