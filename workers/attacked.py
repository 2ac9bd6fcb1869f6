"""The membership audit of an exact removal: the attack on the version before, on the version after, and on refits that never saw the rows.

The verdict is the equality that is proved. The attack shows what there was to remove, and that afterwards it sees what it sees of a refit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from models.audit import findings, membership, shadows
from models.audit.utility import SMALLEST
from models.linear.core import Core
from models.linear.statistics import Statistics
from models.progress import Progress
from service.auditing import POLICY
from workers import audit_figures
from workers.artifacts import NamedRows, Shelf, concat_rows, unpack_rows
from workers.auditing import document
from workers.judging import SEED

FEWEST_KEPT = 8
PHASE = "audit: membership"


def attacked(
    plan: Mapping[str, Any],
    shelf: Shelf,
    core: Core,
    *,
    before: Tensor,
    after: Tensor,
    statistics: Statistics,
    gone: NamedRows,
    progress: Progress,
) -> dict[str, Any]:
    """Attack the forgotten samples before and after. Returns evidence, name -> {blob, sha256, size}.

    Args:
        before, after: `[d, C]` user weights.
        statistics: of the rows that stay.
        gone: the forgotten user rows. Of fewer than 20 nothing is told: it would be about single people.
    """
    if len(gone.ids) < SMALLEST:
        return _kept(shelf, {"withheld": f"Fewer than {SMALLEST} samples were forgotten: an attack on so few is about single people."})
    rules, names = POLICY["audits"]["membership"], set(gone.ids)
    blocks = [unpack_rows(shelf.vault.read(blob)) for _, blob in plan["blocks"]]
    stay = concat_rows([rows.pick([i not in names for i in rows.ids]) for rows in blocks])
    if len(stay.ids) < FEWEST_KEPT:
        return _kept(shelf, {"withheld": "Too few samples are left to refit without some of them."})
    aimed = shadows.Targets(gone.rows, gone.labels)
    canaries = shadows.mislabelled(core, stay.rows, stay.labels, seed=SEED, count=rules["canaries"])
    groups = rules["shadowGroups"]
    played = shadows.shadows(core, statistics, stay.rows, aimed, canaries, seed=SEED, groups=groups, progress=progress)
    then = membership.attack(aimed.scores(core, before), played.targets, seed=SEED)
    now = membership.attack(aimed.scores(core, after), played.targets, seed=SEED)
    planted = membership.attack(played.planted, played.canaries, seed=SEED)
    answer = membership.verdict(now, planted)
    shown = [document(one) for one in findings.of_membership(now, answer, before=then)]
    curves = audit_figures.curve(aimed.scores(core, before), played.targets), audit_figures.curve(played.planted, played.canaries)
    files = {
        "membership-before-roc.svg": audit_figures.roc(then, planted, curves),
        "membership-before-roc.csv": audit_figures.roc_csv(then, planted),
        "membership-after-roc.csv": audit_figures.roc_csv(now, planted),
    }
    verdict = "The verdict is the proved equality with refitting: these figures are of the version before, and of the null."
    return _kept(shelf, {"verdict": verdict, "groups": groups, "findings": shown}) | {n: shelf.put_file(data) for n, data in files.items()}


def _kept(shelf: Shelf, told: Mapping[str, Any]) -> dict[str, Any]:
    return {"membership.json": shelf.put_file(json.dumps(told, indent=1).encode())}
