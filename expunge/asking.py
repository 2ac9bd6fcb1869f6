"""Commands about forgetting: ask, follow, take back, prove to one person."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from expunge import erased, merkle, show
from expunge.client import Client, Problem
from expunge.records import AsJson, Wait
from expunge.verify import verify

requests = typer.Typer(no_args_is_help=True, help="Requests to forget, and what became of them.")

_EXPLAINED = ("guarantee_not_met", "budget_not_met", "audit_without_power")
"""Refusals whose reason is shown in full."""

_LISTED = 10  # samples named one by one on the screen; --json names all


def read_ids(path: Path) -> list[str]:
    """Read ids, one a line, or a JSON list where the name ends with .json; `-` is standard input.

    Raises:
        typer.BadParameter: the file is neither.
    """
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8-sig")
        if path.suffix != ".json":
            return [line for line in text.splitlines() if line.strip()]
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise typer.BadParameter(f"{path} holds neither ids, one a line in UTF-8, nor (as .json) a list of texts")
    return found


def forget(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    id_: Annotated[list[str] | None, typer.Option("--id", metavar="ID", help="A sample to forget. May be given again.")] = None,
    ids_file: Annotated[Path | None, typer.Option(help="Samples to forget: one id a line, or a .json list; - is standard input.")] = None,
    subject: Annotated[list[str] | None, typer.Option(metavar="ID", help="A subject, all of whose samples go. May be given again.")] = None,
    subjects_file: Annotated[Path | None, typer.Option(help="Subjects, one id a line, or a .json list.")] = None,
    label: Annotated[str | None, typer.Option(help="Samples with this label.")] = None,
    where: Annotated[list[str] | None, typer.Option(metavar="ATTR=VALUE", help="Samples with this attribute; with --label and further "
                                                    "--where, all must hold. VALUE may be a JSON number or true, false.")] = None,
    everything: Annotated[bool, typer.Option("--everything", help="All user samples.")] = False,
    attribute: Annotated[str | None, typer.Option(metavar="NAME", help="An attribute to remove; no row goes.")] = None,
    method: Annotated[str, typer.Option(help="auto, exact, retrain (also core samples; slow), zero; cg or sgd if linearised; "
                                        "irene, lnl, quantized or leace for an attribute.")] = "auto",
    max_accuracy_drop: Annotated[float | None, typer.Option(help="Of an attribute: what it may cost, a fraction. Default .01.")] = None,
    max_leakage_nats: Annotated[float | None, typer.Option(help="Of an attribute: what probes may still find. Default .05.")] = None,
    data: Annotated[str | None, typer.Option(help="Of an attribute: core, or all to train on user rows too.")] = None,
    claim: Annotated[str | None, typer.Option(help="Of an attribute: linear or any, the readers to keep out.")] = None,
    option: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Of an attribute's method. May be given again.")] = None,
    epsilon: Annotated[float | None, typer.Option(help="With --delta: what a linearised model's release must guarantee.")] = None,
    delta: Annotated[float | None, typer.Option(help="With --epsilon.")] = None,
    nats: Annotated[float | None, typer.Option(help="The same as a largest Kullback-Leibler divergence, instead of both.")] = None,
    most_passes: Annotated[int | None, typer.Option(help="Of cg and sgd, over the rows that stay: then the request is refused.")] = None,
    audit: Annotated[list[str] | None, typer.Option(help="membership; differencing and decoder, not by retrain.")] = None,
    reason: Annotated[str | None, typer.Option(
        help="gdpr-17, consent-withdrawn, ccpa-1798.105, court-order, data-quality or other.")] = None,
    reference: Annotated[str | None, typer.Option(help="Your own reference; no personal data.")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="Asked twice with the same key, the service acts once.")] = None,
    wait: Wait = False, json_: AsJson = False,
) -> None:
    """Ask a model to forget samples, subjects, all that match, or everything; or to remove an attribute.

    Exits 0 if all that was asked is gone (or asked for, without --wait); 1 if the request was refused or something of it is left.
    """
    common: dict[str, Any] = {"method": method, "reason": reason, "reference": reference, "idempotency_key": idempotency_key}
    budget = {k: v for k, v in (("max_accuracy_drop", max_accuracy_drop), ("max_leakage_nats", max_leakage_nats)) if v is not None}
    removal: dict[str, Any] = {"budget": budget, "data": data, "claim": claim, "options": erased.options(option or ())}
    ids = [*(id_ or ()), *(read_ids(ids_file) if ids_file else ())]
    subjects = [*(subject or ()), *(read_ids(subjects_file) if subjects_file else ())]
    attributes = dict(map(_attribute, where or ()))
    samples = bool(ids or subjects or attributes or label is not None)
    _named_one(samples=samples, everything=everything, attribute=attribute, removal=removal)
    asked: dict[str, Any] = {"ids": ids, "subjects": subjects, "where": attributes, "everything": everything,
                             **({"audits": audit} if audit else {}),
                             "guarantee": {k: v for k, v in (("epsilon", epsilon), ("delta", delta), ("nats", nats)) if v is not None},
                             "options": {} if most_passes is None else {"most_passes": most_passes}}
    with Client() as client:
        asks_for = client.remove_attribute(model, attribute, **common, **removal) if attribute else None
        request = asks_for or _ask(client, model, label, asked | common)
        if wait:
            job = _wait(client, request)
            request = client.wait_request(request["id"])
            if job["state"] in ("failed", "cancelled") or (job["error"] or {}).get("code") in _EXPLAINED:
                show.job_end(job)
    if json_:
        show.as_json(request)
    elif wait:
        _show_outcome(request, ids, subjects)
    else:
        _show_request(request)
        show.note(f"Follow: expunge jobs watch {request['job']}")
    if wait and request["state"] != "fulfilled":
        raise typer.Exit(1)


def _named_one(*, samples: bool, everything: bool, attribute: str | None, removal: dict[str, Any]) -> None:
    """Require that exactly one kind of thing is to go."""
    if samples + everything + (attribute is not None) != 1:
        raise typer.BadParameter("name what to forget: --id, --ids-file, --subject, --subjects-file, --label or --where; or --everything; "
                                 "or --attribute")
    if attribute is None and any(removal.values()):
        raise typer.BadParameter("--max-accuracy-drop, --max-leakage-nats, --data, --claim and --option go with --attribute")


def _attribute(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"--where takes ATTR=VALUE, not {text!r}")
    try:
        parsed = json.loads(value)
    except ValueError:
        return name, value
    return name, parsed if isinstance(parsed, str | int | float) else value


def _ask(client: Client, model: str, label: str | None, asked: dict[str, Any]) -> dict[str, Any]:
    """Send a label as a number where it looks like one; where the data set's labels are text, as text."""
    number = int(label) if label is not None and label.removeprefix("-").isdecimal() else None
    try:
        return client.forget(model, label=label if number is None else number, **asked)
    except Problem as problem:
        if problem.code != "label_type" or number is None:
            raise
        return client.forget(model, label=label, **asked)


def _wait(client: Client, request: dict[str, Any]) -> dict[str, Any]:
    with show.bar(f"forget, {request['model']}") as tell:
        return client.wait(request["job"], on_event=show.follower(tell))


def _show_outcome(request: dict[str, Any], ids: list[str], subjects: list[str]) -> None:
    found = request["dispositions"] or {"counts": {}}
    show.say(f"Request {request['id']}: {request['state']}")
    if "attribute" in found:
        show.say(f"The attribute {found['attribute']['name']} is {found['attribute']['disposition']}, by {found['attribute']['method']}.")
        erased.tell(found["attribute"])
        return _show_version(request)
    for word, count in sorted(found["counts"].items(), key=lambda pair: (pair[0] != "forgotten", pair[0])):
        show.say(f"  {count:>8}  {word:<18} {show.DISPOSITIONS.get(word, '')}")
    odd = [(name, word) for name, word in zip(ids, found.get("ids", ()), strict=False) if word != "forgotten"]
    odd += [(name, ", ".join(f"{count} {word}" for word, count in words.items()))
            for name, words in zip(subjects, found.get("subjects", ()), strict=False) if set(words) != {"forgotten"}]
    for name, word in odd[:_LISTED]:
        show.say(f"  {name}: {word}")
    if len(odd) > _LISTED:
        show.say(f"  ... and {len(odd) - _LISTED} more; --json names all")
    if not found["counts"]:
        show.say("  Nothing matched: the model holds no such sample.")
    if holders := found.get("still_held_by"):
        show.say(f"Still held by other models of this data set: {', '.join(holders)}. Ask them too; the stored rows go with the last.")
    _show_version(request)


def _show_version(request: dict[str, Any]) -> None:
    if request["version"] is None:
        show.say("No new version was made.")
        return
    if given := _given(request):
        show.say(f"Guarantee: {given}.")
    show.say(f"Version {request['version']} of {request['model']} is certified; the version before is withdrawn.")
    show.say(f"Download it: expunge download {request['model']} {request['version']} --out {request['model']}-v{request['version']}")


def _given(request: dict[str, Any]) -> str | None:
    """What the certificate states of how well the result can be told from one that never saw the samples."""
    given = (request.get("guarantee") or {}).get("given")
    if not given or "mu" not in given:
        return None
    more = f", epsilon {given['epsilon']} at delta {given['delta']}, advantage {given['advantage']}" if "epsilon" in given else ""
    return f"{given['name']}, mu {given['mu']}{more}"


@requests.command("list")
def list_requests(state: Annotated[str | None, typer.Option(
                      help="received, in_progress, fulfilled, partial, refused, cancelled or failed.")] = None,
                  model: Annotated[str | None, typer.Option(help="Of this model only.")] = None, json_: AsJson = False) -> None:
    """List requests, newest first."""
    with Client() as client:
        found = client.requests(state=state, model=model)
    if json_:
        return show.as_json(found)
    rows = ((r["id"], r["model"], r["state"], r["version"], r["due_at"][:10]) for r in found)
    show.table(("request", "model", "state", "version", "due"), rows, empty="No such requests.")


@requests.command("show")
def show_request(request: str, json_: AsJson = False) -> None:
    """Show a request and its dispositions."""
    with Client() as client:
        found = client.request(request)
    if json_:
        return show.as_json(found)
    _show_request(found)


@requests.command("cancel")
def cancel_request(request: str, json_: AsJson = False) -> None:
    """Take a request back, as long as nothing is published."""
    with Client() as client:
        found = client.cancel_request(request)
    if json_:
        return show.as_json(found)
    _show_request(found)


def _show_request(found: dict[str, Any]) -> None:
    counts = (found["dispositions"] or {}).get("counts", {})
    show.fields({
        "request": found["id"], "model": found["model"], "state": found["state"], "asked for": found["kind"], "method": found["method"],
        "why": found["why"], "guarantee": _given(found), "reason": found["reason"], "reference": found["reference"],
        "version": found["version"],
        "attribute": (found["dispositions"] or {}).get("attribute", {}).get("disposition"),
        "samples": ", ".join(f"{count} {word}" for word, count in counts.items()) or None,
        "received (UTC)": show.second(found["received_at"]), "due (UTC)": show.second(found["due_at"]),
        "ended (UTC)": show.second(found["finished_at"]), "job": found["job"]})


def receipt(
    request: Annotated[str, typer.Argument(help="Id of the request that forgot the samples.")],
    id_: Annotated[list[str], typer.Option("--id", metavar="ID", help="A sample. May be given again.")],
    directory: Annotated[Path | None, typer.Option(
        "--verify", metavar="DIR", help="Check the receipts against this downloaded version.")] = None,
    json_: AsJson = False,
) -> None:
    """Get a person's receipts: proof that their samples were in the forget set, revealing nobody else.

    Exits 1 if a sample was not in the set, or a receipt does not fit the certificate.
    """
    with Client() as client:
        found = client.receipts(request, id_)
    commitment = found["commitment"]
    certified = _certified_set(directory, request) if directory else commitment
    shown, good = [], True
    for sample, given in zip(id_, found["receipts"], strict=True):
        proof = given and merkle.Receipt(salt=given["salt"], index=given["index"], path=tuple(given["path"]))
        holds = proof is not None and merkle.verify_receipt(sample, proof, root=certified["root"], count=certified["count"])
        good = good and holds
        shown.append({"sample_id": sample, "in_forget_set": holds} | (asdict(proof) if proof else {}))
    if json_:
        show.as_json({"request": request, "commitment": commitment, "checked_against": directory, "receipts": shown})
    else:
        against = f"the certificate in {directory}" if directory else "the root that the service names; check it with --verify DIR"
        for entry in shown:
            show.say(f"{entry['sample_id']}: {'in' if entry['in_forget_set'] else 'NOT in'} the forget set")
        show.say(f"Checked against {against}: {certified['count']} samples, root {certified['root']}")
    if not good:
        raise typer.Exit(1)


def _certified_set(directory: Path, request_id: str) -> dict[str, Any]:
    """The commitment of a certificate that is about this request. Exits 1 if the certificate is another one, or does not verify."""
    report = verify(directory)
    if report.failed is not None or report.certificate is None:
        show.report(report, str(directory))
        raise typer.Exit(1)
    request = report.certificate["predicate"]["request"]
    if request is None:
        show.failure(f"{directory} is a first version: nothing was forgotten for it.")
        raise typer.Exit(1)
    if request_id not in request["ids"]:
        show.failure(f"{directory} is the certificate of other requests ({', '.join(request['ids'])}).",
                     advice="Give the version that this request made; `expunge requests show` says which.")
        raise typer.Exit(1)
    return {"root": request["forgetSet"]["commitment"], "count": request["forgetSet"]["count"]}

