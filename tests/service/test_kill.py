"""kill -9 of the whole service, at random moments and in running jobs: what was accepted ends, once, with one version."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.digits import Digits
from tests.live import Live


def killed_and_finished(live: Live, gone: list[str], delay: float | None) -> int:
    """Ask, kill after `delay` seconds, or as soon as the job is seen to run, start again, wait. Returns how often the job was claimed."""
    before = live.version("m")["number"]
    answer = live.forget("m", ids=gone)
    assert answer.status_code == 202
    if delay is None:
        while live.client.get(f"/jobs/{answer.json()['job']}").json()["state"] == "queued":
            time.sleep(0.005)
    else:
        time.sleep(delay)
    live.kill()
    live.start()
    ended = live.request(answer.json()["id"])
    job = live.end_of(f"/jobs/{answer.json()['job']}")

    assert ended["state"] == "fulfilled"
    assert (job["state"], job["version"]) == ("done", before + 1)
    assert [v["number"] for v in live.client.get("/models/m/versions").json()["items"]] == list(range(before + 1, 0, -1))
    events = live.client.get(f"/jobs/{job['id']}/events").text
    assert events.count("event: done") == 1
    return events.count("event: claimed")


def series(live: Live, data: Digits, kills: int, seed: int) -> list[int]:
    """Kill the service in so many forget jobs, in every second one as soon as it runs. Returns how often each job was claimed."""
    draw, users = random.Random(seed), data.of(role="user")
    live.fit("m", "digits")
    began = time.monotonic()
    live.request(live.forget("m", ids=users[:1]).json()["id"])
    usual = time.monotonic() - began

    claims = [killed_and_finished(live, users[3 * i + 1 : 3 * i + 4], None if i % 2 else draw.uniform(0, usual)) for i in range(kills)]

    lasting = live.version("m")
    live.fit("reference", "digits", expected_rows=1000)  # the data set has lost exactly what was forgotten
    assert lasting["number"] == kills + 2
    assert live.sha256("m") == live.sha256("reference")
    assert live.client.get("/datasets/digits").json()["summary"]["rows"] == 1797 - 1 - 3 * kills
    assert_only_live_blobs(live.directory)
    return claims


def assert_only_live_blobs(directory: Path) -> None:
    """Nothing that a killed claim wrote is left: as many blobs as the record points at."""
    from service.erasure import referenced
    from service.home import open_home
    from service.settings import Settings
    from tests.copies import copy_of

    home = open_home(Settings(data_dir=copy_of(directory / "data")))
    with home.db.read() as session:
        known = referenced(session)
    stored = set(home.vault.ids())
    home.close()
    assert stored <= known


def test_a_service_killed_during_a_forget_job_finishes_it_after_restart(own_live: Live, data: Digits) -> None:
    claims = series(own_live, data, kills=2, seed=1)

    assert len(claims) == 2


@pytest.mark.slow
def test_twenty_kills_lose_nothing_and_double_nothing(own_live: Live, data: Digits) -> None:
    claims = series(own_live, data, kills=20, seed=2)

    assert len(claims) == 20
    assert sum(n > 1 for n in claims) >= 6  # kills fell into the job itself, else nothing was shown


@pytest.mark.faults
def test_a_killed_child_is_replaced_and_the_job_charged_once(own_live: Live, data: Digits) -> None:
    import os
    import signal
    import subprocess

    live = own_live
    live.fit("m", "digits")
    answer = live.forget("m", ids=data.of(role="core")[:1], method="retrain")
    while live.client.get(answer.headers["Location"]).json()["phase"] != "training the core":
        time.sleep(0.01)
    assert live.process is not None
    children = subprocess.run(["pgrep", "-P", str(live.process.pid)], capture_output=True, text=True, check=True).stdout.split()
    for child in children:
        os.kill(int(child), signal.SIGKILL)

    job = live.job(answer)

    assert len(children) == 1
    assert (job["state"], job["attempt"], job["version"]) == ("done", 1, 2)
    assert "event: retry" in live.client.get(f"/jobs/{job['id']}/events").text


def test_a_second_service_on_the_same_data_is_refused(own_live: Live, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="another service uses"):
        Live(own_live.directory)
