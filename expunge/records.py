"""Commands about what the service holds: data sets, models, versions, jobs, keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from expunge import follow, show
from expunge.client import Client

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to standard output, and nothing else there.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for the job to end, showing its progress.")]

dataset = typer.Typer(no_args_is_help=True, help="Data sets: Parquet files with samples, labels and roles.")
model = typer.Typer(no_args_is_help=True, help="Models: created once, then a history of versions.")
jobs = typer.Typer(no_args_is_help=True, help="Jobs: what the service is doing, or did.")
key = typer.Typer(no_args_is_help=True, help="API keys and their scopes.")


def ended(client: Client, job_id: str, what: str, *, json_: bool) -> dict[str, Any]:
    """Follow a job to its end with a progress bar. Exits 1 if it ends otherwise than done, saying why."""
    with show.bar(what) as tell:
        job = client.wait(job_id, on_event=show.follower(tell))
    if job["state"] != "done":
        if json_:
            show.as_json(job)
        show.job_end(job)
        raise typer.Exit(1)
    return job


# Data sets


@dataset.command("upload")
def upload_dataset(file: Annotated[Path, typer.Argument(metavar="FILE", help="Parquet, with the columns that README.md describes.")],
                   name: Annotated[str, typer.Option(help="What to call it: lower-case letters, digits, . _ -")],
                   wait: Wait = False, json_: AsJson = False) -> None:
    """Upload a Parquet file."""
    with Client() as client:
        with show.bar(f"upload {file.name}") as tell:
            found = client.upload_dataset(file, name, progress=lambda sent, size: tell("sending", sent / size))
        if wait:
            ended(client, found["job"], f"data set {name}", json_=json_)
            found = client.dataset(name)
    _show_dataset(found, json_)
    if not wait and not json_:
        show.note(f"Its rows are being checked. Follow: expunge jobs watch {found['job']}")


@dataset.command("list")
def list_datasets(json_: AsJson = False) -> None:
    """List data sets, newest first."""
    with Client() as client:
        found = client.datasets()
    if json_:
        return show.as_json(found)
    rows = ((d["name"], d["state"], d["summary"] and d["summary"]["rows"], show.moment(d["created_at"])) for d in found)
    show.table(("name", "state", "rows", "uploaded (UTC)"), rows, empty="No data sets yet: `expunge dataset upload FILE --name NAME`.")


@dataset.command("show")
def show_dataset(name: str, json_: AsJson = False) -> None:
    """Show a data set: its counts, or why it failed."""
    with Client() as client:
        _show_dataset(client.dataset(name), json_)


def _show_dataset(found: dict[str, Any], json_: bool) -> None:
    if json_:
        return show.as_json(found)
    summary, error = found["summary"] or {}, found["error"] or {}
    roles = {role: part["rows"] for role, part in summary.get("roles", {}).items()}
    show.fields({
        "name": found["name"], "state": found["state"], "error": error.get("detail"), "row": error.get("row"), "rows": summary.get("rows"),
        "roles": ", ".join(f"{count} {role}" for role, count in roles.items()) or None,
        "labels": _labels(summary), "input": summary.get("shape") and " x ".join(map(str, summary["shape"])),
        "attributes": ", ".join(summary.get("attributes", ())) or None, "sha256": found["sha256"], "id": found["id"], "job": found["job"]})


def _labels(summary: dict[str, Any]) -> str | None:
    labels = {str(label) for part in summary.get("roles", {}).values() for label, _ in part["labels"]}
    return f"{len(labels)}: {', '.join(sorted(labels)[:12])}{' ...' if len(labels) > 12 else ''}" if labels else None


# Models


@model.command("create")
def create_model(
    name: Annotated[str | None, typer.Option(help="What to call it: lower-case letters, digits, . _ -")] = None,
    dataset: Annotated[str | None, typer.Option(help="Name of an uploaded data set.")] = None,
    architecture: Annotated[str | None, typer.Option(help="linear, mlp, convnet, convnet7, resnet20, resnet18 or mobilenet_v2.")] = None,
    core: Annotated[str | None, typer.Option(help="train it on core rows, upload its weights, or none (a plain linear model).")] = None,
    core_weights: Annotated[Path | None, typer.Option(help="Network weights (safetensors), with --core upload.")] = None,
    expected_rows: Annotated[int | None, typer.Option(help="About how many user rows there will be.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the core rows.")] = None,
    batch: Annotated[int | None, typer.Option(help="Samples a step.")] = None,
    rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the core's training.")] = None,
    linearize: Annotated[str | None, typer.Option(
        metavar="all|LAYER,...", help="User weights over all parameters of the network, or of these layers.")] = None,
    mu_max: Annotated[float | None, typer.Option(help="With --linearize: the largest mu of a release. Default 0.2.")] = None,
    sigma: Annotated[float | None, typer.Option(help="With --linearize: the size of its noise. Default: chosen on core rows.")] = None,
    noise: Annotated[str | None, typer.Option(help="With --linearize: core (shaped by the core's curvature) or isotropic.")] = None,
    spec: Annotated[Path | None, typer.Option(help="JSON with any field of POST /models; the options here come before it.")] = None,
    wait: Wait = False, json_: AsJson = False,
) -> None:
    """Create a model and fit its first version."""
    body = _spec(spec)
    given = {"name": name, "dataset": dataset, "core": core or ("upload" if core_weights else None), "expected_rows": expected_rows}
    body |= {k: v for k, v in given.items() if v is not None}
    training = {"epochs": epochs, "batch": batch, "rate": rate, "seed": seed}
    body["training"] = body.get("training", {}) | {k: v for k, v in training.items() if v is not None}
    if linearize is not None:
        body["linearize"] = linearize if linearize == "all" else [layer.strip() for layer in linearize.split(",")]
    release = {k: v for k, v in {"mu_max": mu_max, "sigma": sigma, "noise": noise}.items() if v is not None}
    if release or "release" in body:
        body["release"] = body.get("release", {}) | release
    if architecture is not None:
        body["architecture"] = body.get("architecture", {}) | {"name": architecture}
    if missing := [f"--{field}" for field in ("name", "dataset", "architecture") if field not in body]:
        raise typer.BadParameter(f"give {', '.join(missing)}, or --spec with them")
    if (body.get("core") == "upload") != (core_weights is not None):
        raise typer.BadParameter("--core upload and --core-weights FILE belong together")
    with Client() as client:
        found = client.create_model(**body, core_weights=core_weights)
        if wait:
            ended(client, found["job"], f"model {found['name']}", json_=json_)
            found = client.model(found["name"])
    _show_model(found, json_)
    if not wait and not json_:
        show.note(f"It is being fitted. Follow: expunge jobs watch {found['job']}")


def _spec(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise typer.BadParameter(f"{path} is not JSON") from None
    if not isinstance(body, dict) or not all(isinstance(body.get(part, {}), dict) for part in ("training", "architecture", "release")):
        raise typer.BadParameter(f"{path} does not hold an object as POST /models takes it")
    return body


@model.command("list")
def list_models(json_: AsJson = False) -> None:
    """List models, newest first."""
    with Client() as client:
        found = client.models()
    if json_:
        return show.as_json(found)
    rows = ((m["name"], m["state"], m["latest_certified"], m["spec"]["architecture"]["name"], m["dataset"], show.moment(m["created_at"]))
            for m in found)
    show.table(("name", "state", "version", "architecture", "data set", "created (UTC)"), rows,
               empty="No models yet: `expunge model create --name NAME --dataset DATASET --architecture convnet`.")


@model.command("show")
def show_model(name: str, json_: AsJson = False) -> None:
    """Show a model: its form, its state, its latest certified version."""
    with Client() as client:
        _show_model(client.model(name), json_)


def _show_model(found: dict[str, Any], json_: bool) -> None:
    if json_:
        return show.as_json(found)
    spec, error = found["spec"], found["error"] or {}
    layers = spec.get("linearize")
    classes = spec.get("classes")
    resolved = ", ".join(f"{name.removeprefix('training.')} {value}" for name, value in sorted(spec.get("resolved", {}).items()))
    show.fields({
        "name": found["name"], "state": found["state"], "error": error.get("detail"), "version": found["latest_certified"],
        "data set": found["dataset"], "architecture": spec["architecture"]["name"], "core": spec["core"],
        "linearised": layers if layers is None or layers == "all" else ", ".join(layers),
        "classes": classes and f"{len(classes)}: {', '.join(map(str, classes[:12]))}{' ...' if len(classes) > 12 else ''}",
        "fitted with": resolved or None, "id": found["id"], "job": found["job"]})


# Versions, jobs, keys


def versions(model: str, json_: AsJson = False) -> None:
    """List a model's versions, newest first."""
    with Client() as client:
        found = client.versions(model)
    if json_:
        return show.as_json(found)
    rows = ((v["number"], v["state"], v["method"], _accuracy(v), show.moment(v["created_at"]), v["digest"][:12]) for v in found)
    show.table(("version", "state", "method", "accuracy", "certified (UTC)", "statement"), rows, empty="No versions yet.")


def _accuracy(version: dict[str, Any]) -> str | None:
    for cell in version["utility"]:
        if cell["split"].startswith("audit") and isinstance(cell["after"], dict):
            return f"{100 * cell['after']['correct'] / cell['after']['n']:.1f} % of {cell['after']['n']}"
    return None


@jobs.command("list")
def list_jobs(state: Annotated[str | None, typer.Option(help="queued, running, done, refused, failed or cancelled.")] = None,
              json_: AsJson = False) -> None:
    """List jobs, newest first."""
    with Client() as client:
        found = client.jobs(state=state)
    if json_:
        return show.as_json(found)
    rows = ((j["id"], j["kind"], j["state"], j["model"] or j["dataset"], (show.moment(j["created_at"]) or "")[5:]) for j in found)
    show.table(("job", "kind", "state", "of", "asked (UTC)"), rows, empty="No such jobs.")


@jobs.command("show")
def show_job(job: str, json_: AsJson = False) -> None:
    """Show a job."""
    with Client() as client:
        _show_job(client.job(job), json_)


@jobs.command("watch")
def watch_job(job: str, json_: AsJson = False) -> None:
    """Follow a job to its end. Exits 0 if it is done, 1 if it ended otherwise."""
    with Client() as client, show.bar(job) as tell:
        found = client.wait(job, on_event=show.follower(tell))
    _show_job(found, json_)
    if found["state"] != "done":
        show.job_end(found)
        raise typer.Exit(1)


def _show_job(found: dict[str, Any], json_: bool) -> None:
    if json_:
        return show.as_json(found)
    spent = ", ".join(f"{phase} {seconds:.2f} s" for phase, seconds in (found["seconds"] or {}).items())
    running = found["state"] not in follow.FINAL
    show.fields({
        "job": found["id"], "kind": found["kind"], "state": found["state"], "model": found["model"], "data set": found["dataset"],
        "method": found["method"], "version": found["version"], "phase": found["phase"],
        "progress": f"{100 * found['progress']:.0f} %" if running else None,
        "seconds left": found["eta_seconds"] if running else None, "failures": found["attempt"] or None,
        "error": (found["error"] or {}).get("detail"), "spent": spent or None, "requests": "\n".join(found["requests"]) or None,
        "asked (UTC)": show.second(found["created_at"]), "ended (UTC)": show.second(found["finished_at"])})


SCOPES = "forget:create, forget:read, model:read, model:download, model:admin"


@key.command("new")
def new_key(name: Annotated[str, typer.Argument(help="Who or what will use it.")],
            scope: Annotated[list[str], typer.Option(help=f"May be given again. One of {SCOPES}.")], json_: AsJson = False) -> None:
    """Make an API key. It is shown once."""
    with Client() as client:
        made = client.create_key(name, scope)
    if json_:
        return show.as_json(made)
    show.say(made["key"])
    show.note("Shown once: keep it where only its user can read it.")


@key.command("list")
def list_keys(json_: AsJson = False) -> None:
    """List API keys, without their secrets."""
    with Client() as client:
        found = client.keys()
    if json_:
        return show.as_json(found)
    rows = ((k["id"], k["name"], ", ".join(k["scopes"]), show.moment(k["created_at"]), show.moment(k["revoked_at"])) for k in found)
    show.table(("id", "name", "scopes", "made (UTC)", "revoked (UTC)"), rows, empty="No keys.")


@key.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Revoke an API key at once."""
    with Client() as client:
        client.revoke_key(key_id)
    show.note(f"Revoked {key_id}.")
