"""What the command line shows: tables, progress, verification steps, and errors as sentences. Also JSON, which nothing else may touch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from expunge.client import Problem, Unreachable
from expunge.follow import Event
from expunge.verify import Report

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

NEXT = {
    "unauthenticated": "Set EXPUNGE_API_KEY. `expunge serve` shows the first key once; `expunge key new` makes more.",
    "model_not_found": "See `expunge model list`.",
    "dataset_not_found": "See `expunge dataset list`.",
    "version_not_found": "See `expunge versions MODEL`.",
    "version_withdrawn": "Download the latest: `expunge download MODEL --out DIR`.",
    "job_not_found": "See `expunge jobs list`.",
    "request_not_found": "See `expunge requests list`.",
    "key_not_found": "See `expunge key list`.",
    "dataset_not_ready": "`expunge dataset show NAME` says how far it is, or why it failed.",
    "model_not_ready": "`expunge model show NAME` says how far it is, or why it failed.",
    "core_sample": "Ask again with `--method retrain`: it trains a new core without them.",
}
"""What to type next, by problem code, where the service's own sentence does not say."""

DISPOSITIONS = {
    "forgotten": "gone from weights, sums and stored rows",
    "already_forgotten": "forgotten by an earlier request",
    "not_found": "the model holds no such sample",
    "core_sample": "part of the core; `--method retrain` forgets these too",
    "refused": "refused",
    "failed": "failed",
}


def as_json(value: Any) -> None:
    """Write JSON to standard output, as it is: no colour, no folding."""
    out.out(json.dumps(value, indent=2, ensure_ascii=False, default=str), highlight=False)


def say(text: str) -> None:
    """Write one line, or paragraph, to standard output."""
    out.print(escape(text), soft_wrap=True)


def note(text: str) -> None:
    """Write one line to standard error: what is going on, not what was asked for."""
    err.print(f"[dim]{escape(text)}[/dim]", soft_wrap=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Show rows under headings. The first column names each row and is never folded."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(columns):
        shown.add_column(column, no_wrap=place == 0, overflow="fold")
    for row in rows:
        shown.add_row(*("-" if cell is None else escape(str(cell)) for cell in row))
    if shown.row_count:
        out.print(shown)
    else:
        say(empty)


def fields(pairs: Mapping[str, object]) -> None:
    """Show one thing's fields, a line each."""
    shown = Table(box=None, show_header=False, pad_edge=False)
    shown.add_column(style="dim", no_wrap=True)
    shown.add_column(overflow="fold")
    for name, value in pairs.items():
        if value is not None:
            shown.add_row(name, escape(str(value)))
    out.print(shown)


def moment(text: str | None) -> str | None:
    """A service's UTC moment, to the minute."""
    return None if text is None else text[:16].replace("T", " ")


def second(text: str | None) -> str | None:
    """A service's UTC moment, to the second."""
    return None if text is None else text[:19].replace("T", " ")


@contextmanager
def bar(what: str) -> Iterator[Callable[[str, float], None]]:
    """Show progress on standard error: a bar on a terminal, elsewhere a line for each phase. Gives (phase, fraction) -> None."""
    if not err.is_terminal:
        told: list[str] = []

        def line(phase: str, fraction: float) -> None:
            if told[-1:] != [phase]:
                told.append(phase)
                note(f"{what}: {phase}")

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(escape(what), total=1.0)
        yield lambda phase, fraction: progress.update(task, completed=fraction, description=escape(f"{what}: {phase}"))


def follower(tell: Callable[[str, float], None]) -> Callable[[Event], None]:
    """Turn a job's events into progress."""

    def on_event(event: Event) -> None:
        if event.kind == "progress":
            tell(event.data["phase"] or "waiting for its turn", event.data["progress"])
        elif event.kind == "retry":
            note(f"the worker failed and begins again (failure {event.data['attempt']})")

    return on_event


def problem(error: Problem) -> None:
    """A refusal as sentences: what is wrong, where, and what to do next."""
    err.print(f"[bold red]Refused:[/bold red] {escape(error.detail)} [dim]({escape(error.code)})[/dim]", soft_wrap=True)
    for field in error.errors:
        err.print(f"  at {escape(field.get('pointer') or 'the body')}: {escape(field.get('detail', ''))}", soft_wrap=True)
    if error.code in NEXT:
        err.print(f"  {escape(NEXT[error.code])}", soft_wrap=True)


def unreachable(error: Unreachable) -> None:
    """No answer: say how to get one."""
    err.print(f"[bold red]No service answers at {escape(error.url)}[/bold red] ({escape(error.why)}).", soft_wrap=True)
    err.print("  Start one with `expunge serve`, or set EXPUNGE_URL to the address of one that runs.", soft_wrap=True)


def failure(text: str, *, advice: str = "") -> None:
    """What could not be done, on standard error."""
    err.print(f"[bold red]Failed:[/bold red] {escape(text)}", soft_wrap=True)
    if advice:
        err.print(f"  {escape(advice)}", soft_wrap=True)


def job_end(job: Mapping[str, Any]) -> None:
    """Why a job ended without doing what was asked."""
    error = job["error"] or {}
    row = f" Row {error['row']} (counted from 0)." if error.get("row") is not None else ""
    why = error.get("detail", "no reason is recorded")
    failure(f"The job {job['id']} ended {job['state']}: {why}{row}", advice=NEXT.get(error.get("code", ""), ""))


def report(found: Report, directory: str) -> None:
    """Verification, step by step."""
    signs = {True: "[green]ok  [/green]", False: "[bold red]FAIL[/bold red]", None: "[dim]--  [/dim]"}
    for step in found.steps:
        out.print(f"{step.number}  {signs[step.passed]}  {step.name}")
        if step.passed is not None:
            out.print(f"[dim]         {escape(step.detail)}[/dim]", soft_wrap=True)
    if found.failed is not None:
        failure(f"{directory}: step {found.failed.number} ({found.failed.name}): {found.failed.detail}", advice=found.failed.advice)
    elif not found.signer_known:
        out.print("[yellow]Signature consistent, signer unknown.[/yellow]")
        out.print("  Get the issuer's key or fingerprint from a place you trust, then use --key FILE or --fingerprint HEX.", soft_wrap=True)
    else:
        out.print(f"[green]Verified:[/green] {escape(directory)} is what its certificate says.", soft_wrap=True)


def report_json(found: Report) -> dict[str, Any]:
    return {
        "ok": found.ok, "exit_code": found.exit_code, "signer": found.signer, "signer_known": found.signer_known,
        "failed": found.failed.name if found.failed else None,
        "steps": [{"number": s.number, "name": s.name, "passed": s.passed, "detail": s.detail, "advice": s.advice} for s in found.steps],
    }


def diagnosis(found: Mapping[str, Any]) -> None:
    """What `doctor` looked at, a line each, with what to do about what is wrong."""
    for check in found["checks"]:
        sign = "[green]ok  [/green]" if check["ok"] else "[bold red]FAIL[/bold red]"
        out.print(f"{sign}  {check['name']:<12} [dim]{escape(check['said'])}[/dim]", soft_wrap=True)
        if check["advice"]:
            out.print(f"      {escape(check['advice'])}", soft_wrap=True)
    say("All is well." if found["ok"] else "Something is wrong; the lines above say what to do.")
