"""A version is audited: asked-for measures one after another, each with its null and its power; nothing of the model changes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from workers import auditing
from workers.artifacts import Shelf
from workers.audited import load
from workers.documents import document
from workers.members import measure_membership
from workers.probed import measure_probes
from workers.report import Report
from workers.strips import measure_decoder

AUDITS: dict[str, auditing.Audit] = {
    "utility": auditing.measure_utility,
    "distance": auditing.measure_distance,
    "membership": measure_membership,
    "probes": measure_probes,
    "decoder": measure_decoder,
}
AGAIN = "fitting again"
"""The phase in which is fitted what stands beside the version's scores."""

SHARES = {"utility": 1.0, "distance": 1.0, "membership": 30.0, "probes": 15.0, "decoder": 60.0}


def audit(plan: Mapping[str, Any], shelf: Shelf, report: Report) -> dict[str, Any]:
    """Carry out the audits that were asked for, in the order of the list."""
    task = plan["task"]
    report.plan = {"loading": 2.0, AGAIN: 10.0} | {auditing.phase(name): SHARES[name] for name in task["audits"]} | {"writing": 0.5}
    report.phase("loading")
    version = load(plan, shelf, report.progress)
    report.phase(AGAIN)
    version.fit_again(task["audits"])
    findings: list[dict[str, Any]] = []
    evidence: dict[str, Any] = {}
    for name in task["audits"]:
        report.phase(auditing.phase(name))
        found = AUDITS[name](version, task, lambda _, done: report.progress("", done))
        findings += [document(one) for one in found.measured]
        for files, picture in ((found.files, False), (found.pictures, True)):
            evidence |= {file: auditing.sealed(file, data, version, picture=picture) for file, data in files.items()}
    report.phase("writing")
    numbers = json.dumps({"findings": findings}, indent=1).encode()
    evidence["findings.json"] = auditing.sealed("findings.json", numbers, version, picture=False)
    return {"findings": findings, "evidence": evidence, "seconds": report.end()}
