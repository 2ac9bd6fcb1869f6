"""The membership audit of a version: whether samples that it was fitted on show. Nothing was forgotten, so nothing has to pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.audit import findings, membership, noisy_shadows, shadows
from models.audit.membership import Shadows
from models.guarantee import Measured
from models.linear.statistics import Rows, subtract
from models.progress import Progress
from service.policies import AUDITS
from workers import audit_figures, linearised, released
from workers.artifacts import unpack_table
from workers.audited import Audited
from workers.auditing import Found
from workers.compared import Sides, compared
from workers.failure import Failure
from workers.judging import SEED

AS_IT_IS, ATTACKED = "as it is", "attacked"


def measure_membership(version: Audited, task: Mapping[str, Any], progress: Progress) -> Found:
    """Attack a random group of user samples that this version was fitted on; refits without them are the null, canaries the power.

    Nothing was forgotten here, so the attack has no threshold: it says what there is for forgetting to remove.
    """
    return _of_fixed_features(version, task, progress) if version.core is not None else _of_linearised(version, task, progress)


def _of_fixed_features(version: Audited, task: Mapping[str, Any], progress: Progress) -> Found:
    held, count = version.sums, task["counts"]
    rules = AUDITS["audits"]["membership"]
    rows, labels = held.users.rows, held.users.labels
    order, targets = _drawn(len(labels), count)
    chosen, others = order[:targets], order[targets:]
    aimed = shadows.Targets(Rows(rows.features[chosen], rows.targets[chosen]), labels[chosen])
    kept = Rows(rows.features[others], rows.targets[others])
    canaries = shadows.mislabelled(held.core, kept, labels[others], seed=SEED, count=min(rules["canaries"], targets))
    played = shadows.shadows(held.core, subtract(held.statistics, aimed.rows), kept, aimed, canaries, seed=SEED,
                             groups=count.get("shadow_groups", rules["shadowGroups"]),
                             progress=lambda part, done: progress(part, 0.8 * done))  # fmt: skip
    found = _told(aimed.scores(held.core, held.weights), played.targets, played.planted, played.canaries)
    mask = np.isin(np.arange(len(labels)), chosen.numpy())
    attacked, stay = held.users.pick(mask), held.users.pick(~mask)
    sides = Sides(core=held.core, versions={AS_IT_IS: held.weights}, aimed=attacked, stay=stay, test=held.test, base=held.base)
    beside, more = compared(sides, ATTACKED, lambda done: progress("", 0.8 + 0.2 * done))
    return Found(found.measured + beside, found.files | more)


def _of_linearised(version: Audited, task: Mapping[str, Any], progress: Progress) -> Found:
    plan, shelf, count = version.plan, version.shelf, task["counts"]
    model = linearised.load(plan, shelf)
    held = set(unpack_table(shelf.vault.read(plan["state"]["index"]))["sample_id"].to_pylist())
    rows = linearised.held_rows(plan, shelf, held)
    users, core_rows, test = (linearised.samples(table, plan, version.classes) for table in (rows.user, rows.core, rows.audit))
    order, targets = _drawn(len(users), count)
    aimed, stay = users.select(order[:targets]), users.select(order[targets:])
    canaries = min(AUDITS["audits"]["membership"]["canaries"], targets)
    try:
        one = released.prepared(released.releasing(plan, model), aimed, stay, core_rows, test, name=ATTACKED)
        played = released.played(one, lambda part, done: progress(part, 0.8 * done), groups=count.get("shadow_groups"), canaries=canaries)
        beside, more = released.beside(one, {AS_IT_IS: model.weights}, lambda done: progress("", 0.8 + 0.2 * done))
    except (released.NotEstimable, noisy_shadows.FellShort) as why:
        raise Failure("audit_unsupported", str(why)) from why
    found = _told(noisy_shadows.scores(model.core, one.aimed, model.weights), played.held, played.planted, played.canaries)
    return Found(found.measured + beside, found.files | more)


def _drawn(users: int, count: Mapping[str, Any]) -> tuple[Tensor, int]:
    """User samples in a random order, and how many of them, from the first on, are attacked."""
    targets = min(count.get("targets", AUDITS["audits"]["membership"]["targets"]), users // 4)
    if targets < 2:
        raise Failure("audit_rows", "The model holds too few user samples for a membership attack: at least 8 are needed.")
    return torch.from_numpy(np.random.default_rng(SEED).permutation(users)), targets


def _told(scores: Tensor, played: Shadows, planted: Tensor, canaries: Shadows) -> Found:
    found, seen = membership.attack(scores, played, seed=SEED), membership.attack(planted, canaries, seed=SEED)
    answer = membership.verdict(found, seen)
    curves = audit_figures.curve(scores, played), audit_figures.curve(planted, canaries)
    files = {"membership-roc.svg": audit_figures.roc(found, seen, curves), "membership-roc.csv": audit_figures.roc_csv(found, seen)}
    return Found([_reported(one, answer) for one in findings.of_membership(found, answer)], files)


def _reported(one: Measured, answer: membership.Verdict) -> Measured:
    """Without forgetting there is nothing to pass."""
    if answer.void:
        note = f"The audit is void, nothing can be concluded: {answer.because}."
    else:
        caught = f"{answer.power.caught} of {answer.power.planted} planted canaries were seen"
        note = f"This version was fitted on the samples attacked: what shows is what forgetting would have to remove. {caught}."
    return Measured(audit=one.audit, access=one.access, metric=one.metric, value=one.value, ci95=one.ci95, n=one.n, power=answer.power,
                    null=one.null, void=answer.void, note=note)  # fmt: skip
