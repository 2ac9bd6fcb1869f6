"""A removal that is killed goes on from its last checkpoint, to the same bits; one that is cancelled leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from service.home import open_home
from service.settings import Settings
from service.tables import Job, Shred
from tests.attributed import people
from tests.copies import copy_of
from tests.digits import parquet
from tests.live import Live
from tests.service.test_kill import assert_only_live_blobs

FORM = {"architecture": {"name": "mlp", "hidden": [24, 12]}, "training": {"epochs": 6}, "expected_rows": 600}
BODY = {
    "method": "irene",
    "options": {"scope": "bottleneck", "epochs": 240},
    "budget": {"max_accuracy_drop": 0.5, "max_leakage_nats": 0.09},
}


def ask(live: Live, model: str) -> Any:
    return live.client.post("/forget", json={"model": model, "forget": {"kind": "attribute", "name": "group"}} | BODY)


def at_work(live: Live, answer: Any, progress: float) -> None:
    """Wait until the first point is that far."""
    for _ in range(3000):
        job = live.client.get(answer.headers["Location"]).json()
        if (job["phase"] or "").startswith("point 1") and job["progress"] >= progress:
            return
        assert job["state"] in ("queued", "running"), job
        time.sleep(0.01)
    raise AssertionError("the point was never tried")


def children(live: Live) -> list[int]:
    assert live.process is not None
    out = subprocess.run(["pgrep", "-P", str(live.process.pid)], capture_output=True, text=True, check=False).stdout
    return [int(child) for child in out.split()]


def shredded(live: Live) -> list[str]:
    home = open_home(Settings(data_dir=copy_of(live.directory / "data")))
    with home.db.read() as session:
        assert session.scalars(select(Job.id).where(Job.checkpoint.is_not(None), Job.state != "running")).all() == []
        found = list(session.scalars(select(Shred.blob).where(Shred.what == "checkpoint of a computation")))
    home.close()
    return found


@pytest.fixture
def live(tmp_path: Path) -> Any:
    service = Live(tmp_path, checkpoint_seconds="0.2")
    for name in ("whole", "broken"):
        service.upload(name, parquet(people(2, missing=0.2, rows=2000), tmp_path / f"{name}.parquet"))
        service.fit(name, name, **FORM)
    yield service
    service.stop()


@pytest.mark.faults
def test_a_killed_removal_goes_on_where_it_was_and_gives_the_same_bits(live: Live) -> None:
    answer = ask(live, "broken")
    at_work(live, answer, 0.11)
    for child in children(live):
        os.kill(child, signal.SIGKILL)
    broken = live.job(answer)
    whole = live.job(ask(live, "whole"))

    assert (broken["attempt"], broken["version"], whole["version"]) == (1, 2, 2)
    for file in ("core.safetensors", "user.safetensors"):
        assert live.sha256("broken", file) == live.sha256("whole", file)
    events = live.client.get(f"/jobs/{broken['id']}/events").text
    assert events.count("event: claimed") == 2
    live.request(answer.json()["id"])
    live.stop()  # what shreds and sweeps has ended
    gone = shredded(live)
    assert any(blob.startswith(f"{broken['id']}-1-") for blob in gone)  # the second claim took over what the first had kept
    assert_only_live_blobs(live.directory)


@pytest.mark.slow
def test_a_cancelled_removal_ends_within_a_moment_and_leaves_no_checkpoint(live: Live) -> None:
    answer = ask(live, "broken")
    at_work(live, answer, 0.11)
    (child,) = children(live)

    live.client.post(f"/forget/{answer.json()['id']}/cancel").raise_for_status()
    begun = time.monotonic()
    while child in children(live):
        assert time.monotonic() - begun < 30
        time.sleep(0.05)
    live.job(live.forget("whole", ids=["nobody"]))  # the worker is free again

    assert live.client.get(answer.headers["Location"]).json()["state"] == "cancelled"
    assert live.version("broken")["number"] == 1
    live.stop()  # what shreds and sweeps has ended
    assert shredded(live)
    assert_only_live_blobs(live.directory)
