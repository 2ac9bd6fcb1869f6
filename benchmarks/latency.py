"""From POST /forget to a certified version on disk: the embedded service, warm, on scikit-learn's digits, one sample a request."""

from __future__ import annotations

import io
import json
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.datasets import load_digits

from benchmarks.live import Unexpected, accepted, ended, service
from benchmarks.outcome import Goal, Outcome, Table, progress, seconds

NAME = "latency"
MINUTES = 1
WARM_UP = 3
CORE, USER = 750, 750

BESIDE = {
    "post": "POST: body sealed, request and job committed, answered",
    "claim": "from the commit to the claim by the runner",
    "publish": "publish and the rest of the runner: renewing, one transaction",
    "notice": "from the commit to the waiting client",
    "download": "download: version, weights, certificate",
}


def run(requests: int = 20, *, core_epochs: int | None = None) -> Outcome:
    """Measure on a fresh service.

    Args:
        requests: measured after the warm-up, each of one sample, one after another.
        core_epochs: None takes the product's default.
    """
    with tempfile.TemporaryDirectory(prefix="expunge-bench-") as folder, service(Path(folder)) as client:
        progress("uploading the digits and fitting a model")
        ended(client, accepted(client.post("/datasets", params={"name": "digits"}, content=digits())))
        body: dict[str, Any] = {"name": "digits", "dataset": "digits", "architecture": {"name": "convnet"}, "expected_rows": USER}
        if core_epochs is not None:
            body["training"] = {"epochs": core_epochs}
        ended(client, accepted(client.post("/models", json=body)))
        d = client.get("/models/digits/versions/1").json()["files"]
        progress(f"{requests} requests")
        found = [one_request(client, f"user-{i}") for i in range(WARM_UP + requests)][WARM_UP:]
    return outcome_of(found, {"file_bytes": {f["name"]: f["size"] for f in d}})


def one_request(client: httpx.Client, sample: str) -> dict[str, float]:
    """Forget one sample and download what came of it.

    Returns:
        seconds by part: what this side saw, the job's own phases, and the job's three moments between them.

    Raises:
        Unexpected: the version is not there, or lacks a file.
    """
    begun, wall = time.perf_counter(), time.time()
    response = client.post("/forget", json={"model": "digits", "forget": {"kind": "samples", "ids": [sample]}})
    address = accepted(response)
    posted = time.perf_counter()
    job = ended(client, address)
    told = time.perf_counter()
    told_wall = wall + (told - begun)
    version = client.get(f"/models/digits/versions/{job['version']}").json()
    for url in (*(f["url"] for f in version["files"]), version["certificate"]):
        if client.get(url).status_code != 200:
            raise Unexpected(f"{url} is not downloadable")
    done = time.perf_counter()
    created, started, finished = (datetime.fromisoformat(job[k]).timestamp() for k in ("created_at", "started_at", "finished_at"))
    phases = {f"job: {name}": float(spent) for name, spent in job["seconds"].items()}
    return phases | {
        "total": done - begun,
        "known": told - begun, "post": posted - begun, "claim": started - created,
        "publish": finished - started - sum(phases.values()), "notice": told_wall - finished, "download": done - told,
    }  # fmt: skip


def digits(core: int = CORE, user: int = USER) -> bytes:
    """Return scikit-learn's digits as the Parquet file that the service takes: core, user and audit rows."""
    raw = load_digits()
    order = np.random.default_rng(0).permutation(len(raw.target))
    images = (raw.images[order] * 15.9375).astype(np.uint8)
    roles = ["core"] * core + ["user"] * user + ["audit"] * (len(order) - core - user)
    counts = {"core": 0, "user": 0, "audit": 0}
    ids = []
    for role in roles:
        ids.append(f"{role}-{counts[role]}")
        counts[role] += 1
    table = pa.table({
        "sample_id": ids, "role": roles, "label": pa.array(raw.target[order].tolist(), pa.int64()),
        "image": pa.array([image.tobytes() for image in images], pa.binary()),
    })  # fmt: skip
    facts = {"image_encoding": "raw_uint8", "height": "8", "width": "8", "channels": "1"}
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(facts), sink)
    return sink.getvalue()


def outcome_of(found: list[dict[str, float]], facts: Mapping[str, Any]) -> Outcome:
    """Write the table of shares and judge the goal."""
    known, totals = [one["known"] for one in found], [one["total"] for one in found]
    middle = median(totals)
    names = [name for name in found[0] if name not in ("total", "known")]
    parts = {name: median(one.get(name, 0.0) for one in found) for name in names}
    order = ["post", "claim", *(n for n in names if n.startswith("job: ")), "publish", "notice", "download"]
    rows = tuple((BESIDE.get(name, name), seconds(max(0.0, parts[name])), f"{100 * parts[name] / middle:.0f} %") for name in order)
    for title, spent in (("POST to downloadable, the waiting client told", known), ("POST to all files downloaded", totals)):
        rows += ((f"{title}: median", seconds(median(spent)), f"{100 * median(spent) / middle:.0f} %"),)
        rows += ((f"{title}: 95th percentile", seconds(percentile(spent, 95)), ""),)
    note = (
        f"{len(found)} requests of one sample, one after another, after {WARM_UP} others. A job may be claimed before its POST is "
        "answered: parts overlap a little, and medians of parts do not add up to the median of all."
    )
    reached = median(known)
    goal = Goal(f"POST to certified version downloadable, median of {len(found)}", "< 1 s", seconds(reached), reached < 1.0)
    table = Table("Where the time goes", ("part", "median", "share"), rows, note)
    numbers = {"requests": json.loads(json.dumps(found)), "facts": dict(facts)}
    return Outcome(NAME, "POST /forget to a certified version downloaded: digits, embedded service", (table,), (goal,), numbers)


def percentile(values: list[float], percent: int) -> float:
    """Return a percentile by linear interpolation between the sorted values."""
    return values[0] if len(values) == 1 else quantiles(values, n=100, method="inclusive")[percent - 1]
