"""A fit shared among workers: seconds with 1, 2 and 4 of them, the same files each time, beside what the machine itself can share."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.data import draw, images
from benchmarks.forget import HashesDiffer
from benchmarks.live import accepted, distributed, ended, worker
from benchmarks.outcome import Goal, Outcome, Table, progress, seconds, times
from models.data import Samples

NAME = "wide"
MINUTES = 6
WORKERS = (1, 2, 4)
CORE, USER = 2000, 40_000
PHASE = "encoding rows"
"""What is shared; the core is trained, and the weights are solved, by one."""

_SPIN = "sum(i * i for i in range(5_000_000))"


def run(samples: Samples | None = None, *, core: int = CORE, part_rows: int = 4000, epochs: int = 1, rounds: int = 2) -> Outcome:
    """Fit the same model with each number of workers, by turns, on fresh private servers.

    Args:
        samples: Fashion-MNIST when absent.
        core: rows of them that the core is trained on; all others are user rows.
        part_rows: rows that a worker takes at a time.
        epochs: of the core's training, which is not shared: few, because it is not what is measured.
        rounds: of turns; the quickest of each is reported, after one that warms up and does not count.
    """
    rows = samples if samples is not None else draw(images("fashion_mnist", "train"), (CORE + USER,), seed=0)[0]
    body = {"dataset": "wide", "architecture": {"name": "convnet"}, "training": {"epochs": epochs}, "expected_rows": len(rows) - core}
    fits: dict[int, list[dict[str, float]]] = {n: [] for n in WORKERS}
    machine: dict[int, list[float]] = {n: [] for n in WORKERS}
    files: set[tuple[str, ...]] = set()
    with distributed(EXPUNGE_PART_ROWS=str(part_rows), OMP_NUM_THREADS="1") as servers:
        client = servers.client
        with worker(servers.environment):
            progress(f"uploading {len(rows)} rows")
            ended(client, accepted(client.post("/datasets", params={"name": "wide"}, content=parquet(rows, core))))
        for turn in range(rounds):
            for n in WORKERS:
                progress(f"round {turn + 1}, {n} workers")
                machine[n].append(spinning(n))
                with ExitStack() as stack:
                    for _ in range(n):
                        stack.enter_context(worker(servers.environment))
                    for name in (f"warm-{turn}-{n}", f"m-{turn}-{n}"):
                        job = ended(client, accepted(client.post("/models", json=body | {"name": name})))
                files.add(hashes(client, name))
                fits[n].append(job["seconds"])
    if len(files) != 1:
        raise HashesDiffer(f"{len(files)} different results of one fit")
    return outcome_of(fits, machine, len(rows))


def parquet(rows: Samples, core: int) -> bytes:
    """Write samples `[n, C, H, W]` as the file that the service takes: `core` core rows, the others user rows."""
    channels, height, width = rows.inputs.shape[1:]
    table = pa.table({
        "sample_id": list(rows.ids), "role": ["core"] * core + ["user"] * (len(rows) - core), "label": rows.labels.numpy(),
        "image": pa.array([image.permute(1, 2, 0).contiguous().numpy().tobytes() for image in rows.inputs], pa.binary()),
    })  # fmt: skip
    facts = {"image_encoding": "raw_uint8", "height": str(height), "width": str(width), "channels": str(channels)}
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(facts), sink)
    return sink.getvalue()


def hashes(client: httpx.Client, model: str) -> tuple[str, ...]:
    version = client.get(f"/models/{model}/versions/1").json()
    return tuple(f["sha256"] for f in version["files"] if f["name"] in ("core.safetensors", "user.safetensors"))


def spinning(processes: int) -> float:
    """Seconds of so many processes that do the same arithmetic, which needs nothing but a core each."""
    begun = time.perf_counter()
    running = [subprocess.Popen([sys.executable, "-c", _SPIN]) for _ in range(processes)]
    for process in running:
        process.wait()
    return time.perf_counter() - begun


def outcome_of(fits: Mapping[int, list[dict[str, float]]], machine: Mapping[int, list[float]], rows: int) -> Outcome:
    """Write the table and judge the goal."""
    shared = {n: min(one[PHASE] for one in found) for n, found in fits.items()}
    whole = {n: min(sum(one.values()) for one in found) for n, found in fits.items()}
    spun = {n: min(found) for n, found in machine.items()}
    possible = {n: n * spun[1] / spun[n] for n in fits}
    gained = {n: shared[1] / shared[n] for n in fits}
    table = Table(
        f"Fit of {rows:,} rows",
        ("workers", PHASE, "times as quick", "the machine's own", "whole fit"),
        tuple((str(n), seconds(shared[n]), times(gained[n]), times(possible[n]), seconds(whole[n])) for n in fits),
        "The files are the same bits each time. The machine's own: what as many processes of plain arithmetic gain at the same moment.",
    )
    share = gained[2] / possible[2]
    goal = Goal("encoding with 2 workers, of what 2 processes of plain arithmetic gain", ">= 0.8x", times(share), share >= 0.8)
    numbers: dict[str, Any] = {"fits": {str(n): found for n, found in fits.items()}, "spinning": {str(n): s for n, s in machine.items()}}
    return Outcome(NAME, "One fit shared among workers", (table,), (goal,), numbers)
