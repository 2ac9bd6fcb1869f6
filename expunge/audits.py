"""`expunge audit`: measure a version without forgetting anything, and say what was found in plain words."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from expunge import show
from expunge.client import Client
from expunge.records import AsJson

WHOLE = {
    "void": "VOID: an audit did not see a leak that was planted for it. Nothing can be concluded.",
    "refused": "REFUSED: more was found than the policy allows.",
    "passed": "PASSED: what has a threshold stayed within it. An audit never proves that there is no leak.",
    "reported": "REPORTED: numbers without thresholds. An audit never proves that there is no leak.",
}


def audit(model: Annotated[str, typer.Argument(help="Name of the model.")],
          version: Annotated[str, typer.Option(help="A number, a statement's sha256, or @latest-certified.")] = "@latest-certified",
          audits: Annotated[str, typer.Option(help="Of utility, distance, membership, probes, decoder; with commas.")] = "utility",
          attribute: Annotated[str | None, typer.Option(help="What the probes look for.")] = None,
          decoder_steps: Annotated[int | None, typer.Option(help="Fewer are quicker and see less.")] = None,
          shadow_groups: Annotated[int | None, typer.Option(help="Two shadow models each.")] = None,
          wait: Annotated[bool, typer.Option("--wait", help="Follow the job to its end and show what was found.")] = False,
          out: Annotated[Path | None, typer.Option(help="With --wait: unpack statement and evidence into this new directory.")] = None,
          json_: AsJson = False) -> None:
    """Audit a certified version: accuracy, distances, membership, probes of an attribute, what a decoder can redraw.

    With --wait exits 0 if nothing was refused or void, else 1.
    """
    counts = {name: value for name, value in (("decoder_steps", decoder_steps), ("shadow_groups", shadow_groups)) if value is not None}
    names = [name.strip() for name in audits.split(",") if name.strip()]
    if out is not None and not wait:
        raise typer.BadParameter("--out goes with --wait")
    with Client() as client:
        job = client.audit(model, version, audits=names, attribute=attribute, counts=counts)
        if not wait:
            show.as_json(job) if json_ else show.say(f"{job['id']}: queued. Follow: expunge jobs watch {job['id']}")
            return
        with show.bar(f"audit {model}") as tell:
            job = client.wait(job["id"], on_event=show.follower(tell))
        if job["state"] != "done":
            show.job_end(job)
            raise typer.Exit(1)
        said = statement_of(client.fetch(f"/jobs/{job['id']}/certificate"))
        if out is not None:
            client.unpack_evidence(job["id"], out)
    if json_:
        show.as_json(said)
    else:
        tell_findings(said["predicate"])
        if out is not None:
            show.say(f"Check it: expunge verify {out} --fingerprint HEX")
    raise typer.Exit(0 if said["predicate"]["answer"] in ("passed", "reported") else 1)


def statement_of(bundle: bytes) -> dict[str, Any]:
    """What a bundle says; whether it may be believed is `expunge verify`'s question."""
    said: dict[str, Any] = json.loads(base64.b64decode(json.loads(bundle)["dsseEnvelope"]["payload"]))
    return said


def tell_findings(said: dict[str, Any]) -> None:
    """Each finding in a line: number, interval, null, and what it means."""
    rows = []
    for found in said["findings"]:
        interval = f"{_short(found['ci95'][0])} to {_short(found['ci95'][1])}" if found["ci95"] else None
        null = f"{_short(found['null']['mean'])} (to {_short(found['null']['limit'])})" if found["null"] else None
        rows.append((found["audit"], found["metric"], _short(found["value"]), interval, null, found["n"], found["answer"]))
    show.table(("audit", "what", "found", "95 %", "null", "n", "answer"), rows, empty="Nothing was found out.")
    for told in dict.fromkeys(f"{found['audit']}: {found['says']}" for found in said["findings"]):
        show.say(told)
    show.say(WHOLE[said["answer"]])


def _short(number: str) -> str:
    return f"{float(number):.4g}"
