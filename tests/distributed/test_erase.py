"""Removing an attribute over PostgreSQL and Redis: a worker is killed, another goes on from its checkpoint, and the bits are the same."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.attributed import people
from tests.digits import parquet
from tests.live import Cluster
from tests.service.test_erase_interrupted import FORM, ask, at_work


@pytest.mark.slow
def test_a_removal_whose_worker_is_killed_goes_on_at_another(cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    service = cluster(digits=False, checkpoint_seconds="0.2", lease_seconds="3")
    for name in ("whole", "broken"):
        service.upload(name, parquet(people(2, missing=0.2, rows=2000), tmp_path / f"{name}.parquet"))
        service.fit(name, name, **FORM)

    answer = ask(service, "broken")
    at_work(service, answer, 0.11)
    (first,) = service.workers
    first.send_signal(signal.SIGKILL)
    first.wait()
    service.start_worker()
    broken, whole = service.job(answer), service.job(ask(service, "whole"))

    assert (broken["attempt"], broken["version"], whole["version"]) == (0, 2, 2)  # a lost worker is charged to nobody
    for file in ("core.safetensors", "user.safetensors"):
        assert service.sha256("broken", file) == service.sha256("whole", file)
    events = service.client.get(f"/jobs/{broken['id']}/events").text
    assert events.count("event: claimed") == 2 and "event: lease_lost" in events
