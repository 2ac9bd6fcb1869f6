"""The membership audit of an exact removal: the attack on the version before, on the version after, and on refits that never saw the rows.

The verdict is the equality that is proved. The attack shows what there was to remove, and that afterwards it sees what it sees of a refit.
"""

from __future__ import annotations

from models.audit import findings, membership, shadows
from models.progress import Progress
from service.policies import AUDITS
from workers import audit_figures
from workers.artifacts import unpack_statistics
from workers.compared import Sides, compared
from workers.documents import document
from workers.forgotten import Forgotten, Shown, told
from workers.judging import SEED


def attacked(removal: Forgotten, progress: Progress) -> Shown:
    """Attack the forgotten samples before and after, and compare both versions with one that is fitted again."""
    core, gone, stay, rules = removal.core, removal.gone, removal.stay, AUDITS["audits"]["membership"]
    aimed = shadows.Targets(gone.rows, gone.labels)
    canaries = shadows.mislabelled(core, stay.rows, stay.labels, seed=SEED, count=rules["canaries"])
    groups = rules["shadowGroups"]

    def partly(part: str, done: float) -> None:
        progress(part, 0.8 * done)

    played = shadows.shadows(core, removal.statistics, stay.rows, aimed, canaries, seed=SEED, groups=groups, progress=partly)
    before, after = aimed.scores(core, removal.before), aimed.scores(core, removal.after)
    then = membership.attack(before, played.targets, seed=SEED)
    now = membership.attack(after, played.targets, seed=SEED)
    planted = membership.attack(played.planted, played.canaries, seed=SEED)
    answer = membership.verdict(now, planted)
    base = unpack_statistics(removal.shelf.vault.read(removal.plan["state"]["core_statistics"]))
    versions = {"before": removal.before, "after": removal.after}
    sides = Sides(core=core, versions=versions, aimed=gone, stay=stay, test=removal.test, base=base)
    beside, more = compared(sides, "forgotten", lambda done: progress("", 0.8 + 0.2 * done))
    shown = [document(one) for one in (*findings.of_membership(now, answer, before=then), *beside)]
    curves = audit_figures.curve(before, played.targets), audit_figures.curve(played.planted, played.canaries)
    verdict = "The verdict is the proved equality with refitting: these figures are of the version before, and of the null."
    files = {
        "membership-before-roc.svg": audit_figures.roc(then, planted, curves),
        "membership-before-roc.csv": audit_figures.roc_csv(then, planted),
        "membership-after-roc.csv": audit_figures.roc_csv(now, planted),
    }
    return Shown(told("membership", {"verdict": verdict, "groups": groups, "findings": shown}) | files | more)
