"""Following a job: its events as a stream that resumes where it broke off, or by asking again and again."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from expunge.client import Client

FINAL = frozenset({"done", "refused", "failed", "cancelled"})
"""States in which a job stays."""
SILENCE = 45.0
"""Seconds without a byte after which a stream counts as broken; the service sends a comment every 15."""
TRIES = 3
"""Streams in a row that may break without an event before the job is polled instead."""


@dataclass(frozen=True)
class Event:
    """One thing that happened to a job."""

    kind: str
    """`queued`, `claimed`, `phase`, `progress`, `retry`, a final state, or `end`, whose data is the job."""
    data: dict[str, Any]
    id: str | None = None
    """Number of a recorded event; a stream can be resumed after it."""


def events(client: Client, job_id: str, *, last: str | None = None) -> Iterator[Event]:
    """Yield a job's events up to `end`.

    Args:
        last: id of the last event already seen.

    Raises:
        Problem: there is no such job, or the key may not see it.
        Unreachable: neither a stream nor a poll is answered.
    """
    broken = 0
    while broken < TRIES:
        try:
            with client.stream(f"/jobs/{job_id}/events", headers={"Last-Event-ID": last} if last else {}, timeout=SILENCE) as response:
                if not response.headers.get("content-type", "").startswith("text/event-stream"):
                    break
                for event in parse(response.iter_lines()):
                    if event.id is not None and event.id != last:
                        broken, last = 0, event.id
                    yield event
                    if event.kind == "end":
                        return
        except httpx.TransportError:
            pass
        broken += 1
        time.sleep(0.2 * broken)
    yield from _polled(client, job_id)


def _polled(client: Client, job_id: str) -> Iterator[Event]:
    wait = 0.0
    while True:
        job = client.job(job_id, wait=wait)
        if job["state"] in FINAL:
            yield Event("end", job)
            return
        yield Event("progress", {name: job[name] for name in ("phase", "progress", "eta_seconds")})
        wait = 2.0


def parse(lines: Iterable[str]) -> Iterator[Event]:
    """Read events out of the lines of a stream. What is not whole when the lines end is dropped: it will be sent again.

    Source: https://html.spec.whatwg.org/multipage/server-sent-events.html, section 9.2.6
    """
    kind, number, data = "message", None, list[str]()
    for line in lines:
        if not line:
            if data:
                yield Event(kind, json.loads("\n".join(data)), number)
            kind, number, data = "message", None, []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            kind = value
        elif field == "id":
            number = value
        elif field == "data":
            data.append(value)
