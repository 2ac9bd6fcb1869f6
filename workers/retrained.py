"""The membership audit of `retrain`: where core rows went, the shadows are retrained cores; where none did, refits on the same core.

The verdict is the equality that is proved: no forgotten sample entered the computation. The attack shows what there was to remove.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.audit import findings, membership
from models.audit.retrained_shadows import Rows, affordable, mislabelled, scores, shadows
from models.forget.retrain import Recipe
from models.linear.core import Core, core_tensors
from models.linear.statistics import Statistics
from models.progress import Progress
from service.policies import AUDITS
from workers import audit_figures
from workers.artifacts import Shelf, concat_rows, unpack_rows
from workers.attacked import attacked as attacked_on_one_core
from workers.documents import document
from workers.forgotten import Forgotten, Shown, told
from workers.judging import SEED
from workers.linearised import held_rows, samples
from workers.recipe import training_of
from workers.selection import Selection

VERDICT = (
    "The verdict is the proved equality with retraining: these figures are of the version before, and of the null. Each retrained core of "
    "the null comes from a seed of its own, and keeps the ridge of the new version."
)


@dataclass(frozen=True)
class Whole:
    """A version: core, and user weights `[d, C]` on top."""

    core: Core
    weights: Tensor


@dataclass(frozen=True)
class Retrained:
    """A retraining that is done and not yet published."""

    plan: Mapping[str, Any]
    shelf: Shelf
    before: Whole
    after: Whole
    statistics: Statistics
    """Of the new core and the rows that stay."""
    selection: Selection
    held: frozenset[str]
    """Ids of all samples that the model held before, of every role."""
    users: int
    """How many of them are user rows."""

    @property
    def counts(self) -> tuple[int, int]:
        """How many core and user rows went, and how many user rows stay."""
        return len(self.selection.core) + len(self.selection.user), self.users - len(self.selection.user)


def attacked(removal: Retrained, progress: Progress) -> Shown:
    """Attack the forgotten samples in the version before and in the retrained one."""
    if _same(removal.before.core, removal.after.core):
        return attacked_on_one_core(_on_one_core(removal), progress)
    plan, after = removal.plan, removal.after
    classes, selection = plan["spec"]["classes"], removal.selection
    held = held_rows(plan, removal.shelf, removal.held)
    rest = held.kept(selection.gone)
    kept = Rows(*(samples(table, plan, classes) for table in (rest.core, rest.user)))
    went = (held.named("core", selection.core), held.named("user", selection.user))
    targets = Rows(*(samples(table, plan, classes) for table in went))
    recipe = Recipe(
        after.core.architecture,
        training_of(plan["spec"], after.core.architecture, len(kept.core)),
        expected_rows=plan["spec"]["expected_rows"] or len(kept.core),
        target=after.core.target,
        ridge=after.core.ridge,
    )
    if not affordable(recipe, len(kept.core)):
        why = f"Not estimable: {len(kept.core)} core rows and this network are too many to train dozens of cores for an audit."
        return Shown(told("membership", {"withheld": why}), fitted=False)
    count = AUDITS["audits"]["membership"]["canaries"]
    share = [round(count * len(part) / len(targets)) for part in (targets.core, targets.user)]  # planted where the targets were
    planted = [mislabelled(part, classes=len(classes), seed=SEED, count=n) for part, n in zip((kept.core, kept.user), share, strict=True)]
    canaries = Rows(*planted)
    played = shadows(recipe, kept, targets, canaries, seed=SEED, progress=progress)
    score, anew = scores(removal.before.core, removal.before.weights, targets), scores(after.core, after.weights, targets)
    then, now = (membership.attack(each, played.targets, seed=SEED) for each in (score, anew))
    power = membership.attack(played.planted, played.canaries, seed=SEED)
    shown = [document(one) for one in findings.of_membership(now, membership.verdict(now, power), before=then)]
    curves = audit_figures.curve(score, played.targets), audit_figures.curve(played.planted, played.canaries)
    files = {
        "membership-before-roc.svg": audit_figures.roc(then, power, curves),
        "membership-before-roc.csv": audit_figures.roc_csv(then, power),
        "membership-after-roc.csv": audit_figures.roc_csv(now, power),
    }
    said = {"verdict": VERDICT, "retrained cores": 2 * len(played.targets.seen) + 1, "findings": shown}
    return Shown(told("membership", said) | files)


def _same(one: Core, other: Core) -> bool:
    ours, theirs = core_tensors(one), core_tensors(other)
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


def _on_one_core(removal: Retrained) -> Forgotten:
    """The removal as `exact` would have made it: with the same core and statistics it has the same bits."""
    names, blocks = removal.selection.user, []
    for _, blob in removal.plan["blocks"]:
        rows = unpack_rows(removal.shelf.vault.read(blob))
        blocks.append(rows.pick([i in names for i in rows.ids]))
    return Forgotten(
        plan=removal.plan,
        shelf=removal.shelf,
        core=removal.before.core,
        before=removal.before.weights,
        after=removal.after.weights,
        statistics=removal.statistics,
        gone=concat_rows(blocks),
        keep=removal.held - removal.selection.gone,
    )
