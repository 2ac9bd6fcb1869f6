"""The distributed service on PostgreSQL: requests accepted a second, polls answered, beside a bare insert; one job beside many."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from datetime import datetime
from statistics import median
from typing import Any

import httpx

from benchmarks.latency import digits
from benchmarks.live import accepted, distributed, ended, listening, worker
from benchmarks.load import Load, load
from benchmarks.outcome import Goal, Outcome, Table, progress, seconds, times
from tests.servers import fresh_database

NAME = "service"
MINUTES = 4
CLIENTS = (1, 8, 64)
CORE, USER = 500, 1200


def run(*, slice_seconds: float = 3.0, rounds: int = 3, together: int = 1000, jobs: int = 100) -> Outcome:
    """Measure on fresh private servers that flush what they commit to the disk.

    Args:
        slice_seconds: of load at a time; the service and the bare insert take turns.
        rounds: of turns; the middle one of each is reported.
        together: requests queued for one model, carried out as one job.
        jobs: of one request each, measured one after another beside that.
    """
    with ExitStack() as stack:
        servers = stack.enter_context(distributed())
        environment, address, token, client = servers.environment, servers.address, servers.token, servers.client
        other = stack.enter_context(fresh_database(servers.postgres))
        bare = stack.enter_context(listening([sys.executable, "-m", "benchmarks.bare", other], environment))
        with worker(environment):
            progress("uploading the digits and fitting a model")
            ended(client, accepted(client.post("/datasets", params={"name": "digits"}, content=digits(CORE, USER))))
            body = {"name": "m", "dataset": "digits", "architecture": {"name": "linear"}, "training": {"epochs": 3}, "expected_rows": USER}
            ended(client, accepted(client.post("/models", json=body)))
        accepting, polling = _loads(address, bare, token, client, slice_seconds, rounds)
        cost = _one_job_beside_many(environment, client, together, jobs)
    return outcome_of(accepting, polling, cost)


Loads = dict[str, dict[int, Load]]
"""By whom and number of clients, the round of the middle rate."""


def _loads(address: str, bare: str, token: str, client: httpx.Client, slice_seconds: float, rounds: int) -> tuple[Loads, Loads]:
    """Requests accepted and polls answered, by turns, with no worker taking the processor."""
    body = {"model": "m", "forget": {"kind": "samples", "ids": ["user-0"]}}
    contenders = {"expunge": (address, token), "bare": (bare, "")}
    places = {
        "expunge": accepted(client.post("/forget", json=body)),
        "bare": httpx.post(f"{bare}/forget", json=body).headers["location"],
    }
    found: dict[tuple[str, str, int], list[Load]] = {}
    # Polls first: they are of a job that one request waits for, and every request of the load joins that job.
    for verb, path, expect in (("GET", None, 200), ("POST", "/forget", 202)):
        for clients in CLIENTS:
            progress(f"{verb}, {clients} clients")
            for turn in range(1 + rounds):
                for who, (where, key) in contenders.items():
                    seen = load(where, clients=clients, seconds=slice_seconds, method=verb, path=path or places[who], token=key,
                                body=body if path else None, expect=expect)  # fmt: skip
                    if turn:  # the first warms connections and caches up
                        found.setdefault((verb, who, clients), []).append(seen)
    middle = {at: sorted(loads, key=lambda one: one.rate)[len(loads) // 2] for at, loads in found.items()}
    shown = [{who: {n: middle[verb, who, n] for n in CLIENTS} for who in contenders} for verb in ("POST", "GET")]
    return shown[0], shown[1]


def _one_job_beside_many(environment: dict[str, str], client: httpx.Client, together: int, jobs: int) -> dict[str, Any]:
    """Seconds of a worker: for one job of many requests, and for as many jobs of one request each."""
    progress(f"{jobs} jobs of one request each")
    with worker(environment):
        _drain(client)
        spent = [_busy(ended(client, _forget(client, f"user-{i}"))) for i in range(together, together + jobs)]
    progress(f"{together} requests as one job")
    for i in range(together):
        place = _forget(client, f"user-{i}")
    with worker(environment):
        at_once = _busy(ended(client, place))
    one = median(spent)
    return {"together": together, "one_job": at_once, "jobs_measured": jobs, "each_job": one, "many_jobs": one * together}


def _forget(client: httpx.Client, sample: str) -> str:
    return accepted(client.post("/forget", json={"model": "m", "forget": {"kind": "samples", "ids": [sample]}}))


def _busy(job: dict[str, Any]) -> float:
    """Seconds from claim to end."""
    began, finished = (datetime.fromisoformat(job[k]).timestamp() for k in ("started_at", "finished_at"))
    return finished - began


def _drain(client: httpx.Client) -> None:
    """Wait until the thousands of requests of the load are carried out."""
    while client.get("/forget", params={"state": "received", "limit": 1}).json()["items"]:
        time.sleep(0.5)
    while client.get("/forget", params={"state": "in_progress", "limit": 1}).json()["items"]:
        time.sleep(0.5)


def outcome_of(accepting: Loads, polling: Loads, cost: dict[str, Any]) -> Outcome:
    """Write the tables and judge the goals."""
    names = {"expunge": "POST /forget: sealed, recorded, promised", "bare": "FastAPI + SQLAlchemy, one insert"}
    rows = tuple(
        (str(n), names[who], f"{at[n].rate:,.0f}", seconds(at[n].percentile(50)), seconds(at[n].percentile(99)),
         times(at[n].rate / accepting["bare"][n].rate)) for n in CLIENTS for who, at in accepting.items()
    )  # fmt: skip
    polls = tuple(
        (str(n), "GET /jobs/{id}" if who == "expunge" else "FastAPI + SQLAlchemy, one row", f"{at[n].rate:,.0f}",
         seconds(at[n].percentile(50)), seconds(at[n].percentile(99))) for n in CLIENTS for who, at in polling.items()
    )  # fmt: skip
    ratio = accepting["expunge"][8].rate / accepting["bare"][8].rate
    cheaper = cost["many_jobs"] / cost["one_job"]
    together = f"{cost['together']:,}"
    jobs = (
        (f"{together} queued requests for one model, as one job", seconds(cost["one_job"]), ""),
        (f"{together} jobs of one request each ({cost['jobs_measured']} measured, median x {together})", seconds(cost["many_jobs"]), ""),
        ("as one job it is cheaper", times(cheaper), ""),
    )
    tables = (
        Table("Requests accepted", ("clients", "what", "a second", "p50", "p99", "of bare"), rows,
              "One process each, by turns; PostgreSQL flushes each commit; the load is made on the same machine."),
        Table("Polling a job", ("clients", "what", "a second", "p50", "p99"), polls),
        Table("One job for many requests", ("what", "seconds of a worker", ""), jobs),
    )  # fmt: skip
    goals = (
        Goal("POST /forget accepted a second, of a bare insert, 8 clients", ">= 0.5x", times(ratio), ratio >= 0.5),
        Goal(f"{together} queued requests as one job, against as many jobs", ">= 100x cheaper", times(cheaper), cheaper >= 100),
    )
    numbers = {kind: {who: {str(n): {"rate": one.rate, "p50": one.percentile(50), "p99": one.percentile(99), "answers": len(one.seconds)}
                            for n, one in at.items()} for who, at in loads.items()}
               for kind, loads in (("accepting", accepting), ("polling", polling))}  # fmt: skip
    return Outcome(NAME, "The distributed service: accepting, polling, and many requests at once", tables, goals, numbers | {"jobs": cost})
