"""`expunge demo`: the whole promise on one screen. Everything over HTTP as a user would, everything checked without the service."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from expunge import embedded, example, show
from expunge.client import Client, Problem, Unreachable
from expunge.download import DownloadFailed
from expunge.reproduce import CannotReproduce, Reproduction, load, reproduce
from expunge.verify import verify
from models.data import Samples
from models.linear.core import core_logits, logits
from service.parquet import inspect
from service.problem import Problem as BadData
from workers.artifacts import rows_with_role, samples_of
from workers.ingest import blocks

MODEL = "demo"
STEPS = 10


class Disagrees(Exception):
    """A step's result is not what it has to be."""


@dataclass(frozen=True)
class Right:
    """Right answers out of `n`."""

    correct: int
    n: int

    def __str__(self) -> str:
        return f"{100 * self.correct / self.n:.2f} %" if self.n else "-"


Accuracies = dict[str, dict[str, Right]]
"""group (test, forgotten, kept) -> stage (before, after, retrained) -> how often the model is right."""


@dataclass
class Story:
    """What the demo has found so far."""

    plan: example.Plan
    fingerprint: str
    seconds: dict[str, float]
    step: int = 0
    doing: str = ""

    @contextmanager
    def begin(self, what: str) -> Iterator[None]:
        """One step: announced, timed, ticked off."""
        self.step, self.doing = self.step + 1, what
        begun = time.perf_counter()
        yield
        spent = time.perf_counter() - begun
        show.out.print(f"{self.step:>3}  [green]ok[/green]  {escape(what)} [dim]({spent:.1f} s)[/dim]", soft_wrap=True)


def demo(out: Path, *, data: Path | None, seed: int, epochs: int | None) -> int:
    """Run the demonstration. Returns the exit code: 0 if every step agrees, 1 with the step named if one does not.

    Args:
        out: gets `v2`, `v3`, `forgotten.txt`, `fingerprint.txt`, `summary.json`, and `digits.parquet` where no data is given.
        data: a Parquet file with rows of the roles core and user.
        seed: of the digits' roles, of the core's training and of drawn rows.
        epochs: of the core's training; None takes the architecture's own.
    """
    out.mkdir(parents=True, exist_ok=True)
    story = Story(example.Plan(Path(), "", 0, None, ()), "", {})
    try:
        with tempfile.TemporaryDirectory(prefix="expunge-demo-") as folder:
            _run(story, out, Path(folder), data, seed, epochs)
    except (Disagrees, Problem, BadData, Unreachable, DownloadFailed, CannotReproduce, example.UnusableData, embedded.DidNotStart) as error:
        show.failure(f"step {story.step} ({story.doing}): {error.detail if isinstance(error, Problem | BadData) else error}")
        return 1
    return 0


def _run(story: Story, out: Path, folder: Path, data: Path | None, seed: int, epochs: int | None) -> None:
    with story.begin("data: scikit-learn's digits as Parquet" if data is None else f"data: {data}"):
        if data is None:
            data = out / "digits.parquet"
            example.write_digits(data, seed=seed)
        plan = story.plan = example.choose(data, seed=seed)
        (out / "forgotten.txt").write_text("".join(f"{name}\n" for name in plan.gone))
    with ExitStack() as stack:
        with story.begin("start: `expunge serve` on a free loopback port, data directory of its own"):
            service = stack.enter_context(embedded.service(folder / "service"))
            client = stack.enter_context(Client(service.url, service.key))
            story.fingerprint = client.signing_keys()[0]["fingerprint"]
            (out / "fingerprint.txt").write_text(story.fingerprint + "\n")
        _tell(story, out, folder, client, seed, epochs)


def _tell(story: Story, out: Path, folder: Path, client: Client, seed: int, epochs: int | None) -> None:
    plan = story.plan
    with story.begin("upload: the file, sealed as it arrives, every row checked"):
        _job(client, client.upload_dataset(plan.data, MODEL)["job"], "upload")
    with story.begin(f"fit: {plan.architecture} trained on core rows, user weights fitted on {plan.user_rows} user rows"):
        model = client.create_model(MODEL, MODEL, plan.architecture, expected_rows=plan.user_rows,
                                    training={k: v for k, v in (("seed", seed), ("epochs", epochs)) if v is not None})
        fit = _job(client, model["job"], "fit")
        client.download(MODEL, 1, out=folder / "v1")  # for the figures before; gone with the demo's own folder
    who = f"{plan.subject}, {len(plan.gone)} samples" if plan.subject else f"{len(plan.gone)} samples, drawn"
    with story.begin(f"forget: {who}"):
        asked = {"subjects": [plan.subject]} if plan.subject else {"ids": plan.gone}
        forgot = _forget(client, story, "forget", expected=len(plan.gone), **asked)
    with story.begin(f"download: version 2 and its certificate, to {out / 'v2'}"):
        client.download(MODEL, 2, out=out / "v2")
    with story.begin("verify: offline, the signer's fingerprint pinned"):
        _verified(out / "v2", story.fingerprint)
    with story.begin(f"reproduce: trained again from {plan.data.name} without them, hashes compared"):
        again = _reproduced(story, "v2", out / "v2", set(plan.gone))
    with story.begin(f"forget everything: the other {plan.user_rows - len(plan.gone)} user samples"):
        _forget(client, story, "forget everything", expected=plan.user_rows - len(plan.gone), everything=True)
        client.download(MODEL, 3, out=out / "v3")
    with story.begin("verify: version 3 is the core alone, bit for bit"):
        _verified(out / "v3", story.fingerprint)
        _reproduced(story, "v3", out / "v3", set())
        alone = _core_alone(story, out / "v3")
    accuracies, hashes = _figures(story, folder / "v1", out / "v2", again)
    _table(story, accuracies, hashes)
    _words(story, alone)
    _keep(story, out, accuracies, hashes, fit, forgot)


# The steps


def _job(client: Client, job_id: str, what: str) -> dict[str, Any]:
    with show.bar(f"     {what}") as tell:
        job = client.wait(job_id, on_event=show.follower(tell))
    if job["state"] != "done":
        raise Disagrees(f"the job ended {job['state']}: {(job['error'] or {}).get('detail', 'no reason is recorded')}")
    return job


def _forget(client: Client, story: Story, what: str, *, expected: int, **asked: Any) -> dict[str, Any]:
    begun = time.perf_counter()
    request = client.forget(MODEL, **asked)
    job = _job(client, request["job"], what)
    story.seconds[what] = time.perf_counter() - begun
    ended = client.wait_request(request["id"])
    if ended["state"] != "fulfilled" or ended["dispositions"]["counts"] != {"forgotten": expected}:
        raise Disagrees(f"{expected} samples should be forgotten; the request ended {ended['state']} with {ended['dispositions']}")
    return job


def _verified(directory: Path, fingerprint: str) -> None:
    report = verify(directory, fingerprint=fingerprint)
    if not report.ok:
        step = report.failed
        raise Disagrees(f"{directory}: step {step.number} ({step.name}): {step.detail}" if step else f"{directory}: the signer is unknown")


def _reproduced(story: Story, name: str, directory: Path, gone: set[str]) -> Reproduction:
    with show.bar("     reproduce") as tell:
        found = reproduce(directory, story.plan.data, gone, fingerprint=story.fingerprint, progress=tell)
    story.seconds[f"retrain {name}"] = found.seconds
    if not found.equal:
        raise Disagrees(f"{directory}: the hashes differ from the certificate's. {found.meaning}")
    return found


def _core_alone(story: Story, directory: Path) -> Right:
    """Check that version 3 says exactly what its core says."""
    version = load(directory, {})
    if bool(version.weights.any()):
        raise Disagrees("the user weights are not all zero after everything was forgotten")
    samples = _rows(story.plan.data, "audit", version.classes) or _rows(story.plan.data, "core", version.classes)
    assert samples is not None
    base = core_logits(version.core, samples.inputs)
    if not torch.equal(logits(version.core, version.weights, samples.inputs), base):
        raise Disagrees("version 3 answers differently from its core")
    return _right(base, samples.labels)


# The figures


def _figures(story: Story, first: Path, second: Path, again: Reproduction) -> tuple[Accuracies, dict[str, str]]:
    before, after = load(first, {}), load(second, {})
    stages = {"before": before.weights, "after": after.weights, "retrained": again.weights}
    user = _rows(story.plan.data, "user", after.classes)
    assert user is not None
    gone = set(story.plan.gone)
    groups = {"test": _rows(story.plan.data, "audit", after.classes), "forgotten": user.select([name in gone for name in user.ids]),
              "kept": user.without(gone)}
    found = {group: {stage: _right(logits(after.core, weights, samples.inputs), samples.labels) for stage, weights in stages.items()}
             for group, samples in groups.items() if samples is not None}
    retrained = next(pair.here for pair in again.digests if pair.what == "user.safetensors")
    hashes = {"before": _hash(first), "after": _hash(second), "retrained": retrained}
    if hashes["after"] != hashes["retrained"] or hashes["before"] == hashes["after"]:
        raise Disagrees("the hashes of the weights are not as they must be: after equal to retrained, and not to before")
    return found, hashes


def _rows(data: Path, role: str, classes: list[Any]) -> Samples | None:
    with data.open("rb", buffering=0) as source:
        layout = inspect(source, max_rows=1 << 40, max_expansion=float("inf"))
        source.seek(0)
        table = rows_with_role(blocks(source, layout), role)
    return samples_of(table, layout.shape, classes) if len(table) else None


def _right(scores: Tensor, labels: Tensor) -> Right:
    return Right(int((scores.argmax(dim=1) == labels).sum()), len(labels))


def _hash(directory: Path) -> str:
    report = verify(directory)
    assert report.certificate is not None
    files = {subject["name"]: subject["digest"]["sha256"] for subject in report.certificate["subject"]}
    return str(files["user.safetensors"])


def _table(story: Story, accuracies: Accuracies, hashes: dict[str, str]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="\nBefore forgetting, after, and trained again without", title_justify="left")
    table.add_column("", no_wrap=True)
    for stage in ("before", "after", "retrained"):
        table.add_column(stage, justify="right", overflow="fold", width=16)
    for group, stages in accuracies.items():
        table.add_row(f"right: {group} ({stages['after'].n})", *(str(stages[stage]) for stage in ("before", "after", "retrained")))
    table.add_row("seconds", "", f"{story.seconds['forget']:.2f} to forget", f"{story.seconds['retrain v2']:.2f} to retrain")
    table.add_row("sha256 of weights", *(hashes[stage] for stage in ("before", "after", "retrained")))
    show.out.print(table)


def _words(story: Story, alone: Right) -> None:
    count = len(story.plan.gone)
    for head, text in (
        ("Proved.", f"Without the {count} samples, training the user weights on the same core gives the very bits of version 2: the last "
         "two hashes are equal, and the signed certificate says so. The core never saw a user sample. With everything forgotten, the model "
         "is its core, bit for bit."),
        ("Measured.", f"The accuracies, by counting; the core alone is right on {alone} of {alone.n} rows. Seconds to forget: from the "
         "request to the certified version, sealing and signing included. Seconds to retrain: reading the file, features, solve; the core "
         "is not trained again."),
        ("Not proved.", "Good faith: a signature shows who asserts, and that nothing was altered. That no copy of version 1 exists "
         "elsewhere. Equal bits on another processor or LAPACK."),
    ):
        show.out.print(f"[bold]{head}[/bold] {escape(text)}")


def _keep(story: Story, out: Path, accuracies: Accuracies, hashes: dict[str, str], fit: dict[str, Any], forgot: dict[str, Any]) -> None:
    summary = {
        "forgotten": len(story.plan.gone), "subject": story.plan.subject, "user_rows": story.plan.user_rows,
        "architecture": story.plan.architecture, "fingerprint": story.fingerprint,
        "accuracy": {group: {stage: {"correct": right.correct, "n": right.n} for stage, right in stages.items()}
                     for group, stages in accuracies.items()},
        "sha256_of_user_weights": hashes, "seconds": {name: round(value, 3) for name, value in story.seconds.items()},
        "seconds_of_the_fit": fit["seconds"], "seconds_of_the_forget_job": forgot["seconds"]}
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    show.note(f"\nKept in {out}: v2, v3, forgotten.txt, fingerprint.txt, summary.json. Check again, without any service:")
    command = os.path.relpath(sys.argv[0])
    show.note(f"  {command} verify {out / 'v2'} --fingerprint $(cat {out / 'fingerprint.txt'})")
    show.note(f"  {command} reproduce {out / 'v2'} --data {story.plan.data} --forgotten {out / 'forgotten.txt'}")
