"""Faults 9, 11 and 20: disks fill, clocks jump, the schema goes down and up under the data."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from alembic import command
from sqlalchemy import select

from service import migrate, requests
from service.blobs import directory_vault
from service.db import Database
from service.tables import Certificate, LogLeaf, Request, Version
from tests.digits import parquet
from tests.faults.audit import audit
from tests.faults.installation import USER, Installation, small
from tests.figures import Figures
from tests.live import Live

pytestmark = pytest.mark.faults
Install = Callable[..., Installation]
ROOM = 24 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB, in memory; only root may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(place)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here, so none can be filled")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("full", ["blobs", "keys", "records"])
def test_09_a_full_disk_refuses_new_requests_and_loses_none_that_was_accepted(
    disk: Path, tmp_path: Path, full: str, figures: Figures
) -> None:
    data, keys = tmp_path / "data", tmp_path / "keys"
    settings = {"data_dir": str(disk if full == "records" else data), "keys_dir": str(disk if full == "keys" else keys),
                "blobs": f"directory:{disk if full == 'blobs' else tmp_path / 'blobs'}"}  # fmt: skip
    if full != "records":
        data.mkdir()
    live = Live(tmp_path, **settings)
    try:
        live.upload("d", parquet(small(), tmp_path / "small.parquet"))
        live.fit("m", "d", architecture={"name": "linear"}, training={"epochs": 1}, expected_rows=USER, ridge=10.0)
        users, accepted, refused = small().of(role="user"), [], 0
        for turn in range(12):
            filler = disk / "filler"
            if turn % 4 == 1:
                _fill(filler)
            elif turn % 4 == 3:
                filler.unlink()
            answer = live.forget("m", ids=users[turn : turn + 1])
            refused += answer.status_code >= 500
            if answer.status_code == 202:
                accepted.append(answer.json()["id"])
        time.sleep(0.5)
        states = [_patient(live, request) for request in accepted]
        url = f"sqlite:///{Path(settings['data_dir']) / 'expunge.sqlite3'}"
        found = audit(url, directory_vault(Path(settings["blobs"].partition(":")[2]), Path(settings["keys_dir"]) / "blobs"), accepted)
    finally:
        live.stop()

    figures(f"9 disk full: {full}", runs=12, refused=refused, **found.counts)
    assert found.well and set(states) == {"fulfilled"}, found
    assert refused > 0 and len(accepted) + refused == 12


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for piece in (1 << 16, 1):
            try:
                while True:
                    file.write(bytes(piece))
            except OSError:
                continue


def _patient(live: Live, request: str) -> str:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        state: str = live.client.get(f"/forget/{request}").json()["state"]
        if state not in ("received", "in_progress"):
            return state
        time.sleep(0.1)
    return state


_WITH_CLOCK = """
import sys
from datetime import timedelta
from pathlib import Path
import service.db
real, jump = service.db.now, Path(sys.argv[1])
service.db.now = lambda: real() + timedelta(seconds=float(jump.read_text()))
sys.argv[:] = ["expunge", *sys.argv[2:]]
from expunge.cli import main
main()
"""


def test_11_clocks_jump_over_hours_and_month_ends_and_jobs_go_on(install: Install, tmp_path: Path, figures: Figures) -> None:
    """Of the machines that serve and work, forward and backward: leases and dates go by the database's."""
    there = install(workers=1)
    there.workers.pop().kill()
    jump = tmp_path / "jump"
    jump.write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", _WITH_CLOCK, str(jump), "worker"], env=there.environment) for _ in range(2)]
    serve = [sys.executable, "-c", _WITH_CLOCK, str(jump), "serve"]
    api = subprocess.Popen(serve, env=there.environment, stdout=subprocess.PIPE, text=True)
    assert api.stdout is not None
    try:
        address = api.stdout.readline().split()[-1]
        with httpx.Client(base_url=address, headers=dict(there.client.headers)) as client:
            for seconds in (0, 3600, -3600, 31 * 86400, 31 * 86400 - 5, 400 * 86400):
                there.ask(method="retrain", client=client)
                there.wait(there.running)
                jump.write_text(str(seconds))
                there.rest()
        found = there.audited()
    finally:
        for process in (*processes, api):
            process.terminate()
        for process in (*processes, api):
            process.wait(20)
        api.stdout.close()

    with there.record() as session:
        due = [(r.received_at, r.due_at) for r in session.scalars(select(Request))]
    figures("11 clock jumps", runs=6, **found.counts, leases_lost=there.events("lease_lost"))
    assert found.well and found.accepted == 6, found
    assert all(until == requests.month_later(since) for since, until in due)
    assert max(since for since, _ in due) - min(since for since, _ in due) < timedelta(hours=1)
    assert there.events("lease_lost") == 0


def test_20_the_schema_goes_down_and_up_with_data_and_the_service_goes_on(install: Install, tmp_path: Path, figures: Figures) -> None:
    there = install(workers=1, blobs=f"directory:{tmp_path / 'blobs'}")
    _stop_with_data(there)
    before = _kept(there.postgres.url)

    command.downgrade(migrate.config(there.postgres.url), "0001")
    down = _kept(there.postgres.url)
    migrate.upgrade(there.postgres.url)
    after = _kept(there.postgres.url)
    there.start()
    there.ask()
    found = there.audited()

    figures("20 migrations down and up", runs=1, **found.counts)
    assert before == down == after and len(before) > 5
    assert found.well and found.accepted == 2, found


def test_20_the_schema_does_not_go_down_where_blobs_would_be_lost(install: Install, figures: Figures) -> None:
    there = install(workers=1)
    _stop_with_data(there)

    with pytest.raises(Exception, match="they would be lost"):
        command.downgrade(migrate.config(there.postgres.url), "0001")
    migrate.upgrade(there.postgres.url)
    there.start()
    there.ask()
    found = there.audited()

    figures("20 a downgrade that would lose blobs", runs=1, **found.counts)
    assert found.well and found.accepted == 2, found


def _stop_with_data(there: Installation) -> None:
    there.ask()
    there.rest()
    worker = there.workers.pop()
    worker.terminate()
    worker.wait(20)
    there.kill()


def _kept(url: str) -> list[str]:
    """What no migration may change: certificates, versions and the log."""
    database = Database(url, connections=1)
    try:
        with database.read() as session:
            return sorted([*session.scalars(select(Certificate.statement)), *session.scalars(select(LogLeaf.leaf_hash)),
                           *map(str, session.execute(select(Version.model_id, Version.number, Version.state)))])  # fmt: skip
    finally:
        database.close()
