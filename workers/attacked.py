"""The membership audit of an exact removal: the attack on the version before, on the version after, and on refits that never saw the rows.

The verdict is the equality that is proved. The attack shows what there was to remove, and that afterwards it sees what it sees of a refit.
"""

from __future__ import annotations

from models.audit import findings, membership, shadows
from models.progress import Progress
from service.auditing import POLICY
from workers import audit_figures
from workers.auditing import document
from workers.forgotten import Forgotten, Shown, told
from workers.judging import SEED


def attacked(removal: Forgotten, progress: Progress) -> Shown:
    """Attack the forgotten samples before and after."""
    core, gone, stay, rules = removal.core, removal.gone, removal.stay, POLICY["audits"]["membership"]
    aimed = shadows.Targets(gone.rows, gone.labels)
    canaries = shadows.mislabelled(core, stay.rows, stay.labels, seed=SEED, count=rules["canaries"])
    groups = rules["shadowGroups"]
    played = shadows.shadows(core, removal.statistics, stay.rows, aimed, canaries, seed=SEED, groups=groups, progress=progress)
    before, after = aimed.scores(core, removal.before), aimed.scores(core, removal.after)
    then = membership.attack(before, played.targets, seed=SEED)
    now = membership.attack(after, played.targets, seed=SEED)
    planted = membership.attack(played.planted, played.canaries, seed=SEED)
    answer = membership.verdict(now, planted)
    shown = [document(one) for one in findings.of_membership(now, answer, before=then)]
    curves = audit_figures.curve(before, played.targets), audit_figures.curve(played.planted, played.canaries)
    verdict = "The verdict is the proved equality with refitting: these figures are of the version before, and of the null."
    files = {
        "membership-before-roc.svg": audit_figures.roc(then, planted, curves),
        "membership-before-roc.csv": audit_figures.roc_csv(then, planted),
        "membership-after-roc.csv": audit_figures.roc_csv(now, planted),
    }
    return Shown(told("membership", {"verdict": verdict, "groups": groups, "findings": shown}) | files)
