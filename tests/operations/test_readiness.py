"""Readiness and the doctor: each thing that can be missing is taken away in turn, and must be named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command

from expunge import doctor
from service import checks, jobs, migrate, presence
from service.checks import Finding, Readiness
from service.db import Database, now
from service.home import vault_of
from service.settings import Settings
from service.tables import Dataset
from tests.live import Live
from tests.servers import Server, fresh_database, no_servers, private_postgres

ROOT = Path(__file__).parents[2]


@pytest.fixture
def settings(postgres: Server, redis: Server, tmp_path: Path) -> Iterator[Settings]:
    """Of a distributed service whose database is migrated."""
    with fresh_database(postgres) as url:
        migrate.upgrade(url)
        (tmp_path / "keys").mkdir(mode=0o700)
        yield Settings(data_dir=tmp_path / "data", keys_dir=tmp_path / "keys", database_url=url, redis_url=redis.url, port=9)


@pytest.fixture
def records(settings: Settings) -> Iterator[Database]:
    database = Database(settings.records_url)
    yield database
    database.close()


def readiness(settings: Settings, records: Database) -> dict[str, Finding]:
    return {finding.name: finding for finding in Readiness(settings, records, vault_of(settings)).findings()}


def wrong(found: dict[str, Finding]) -> dict[str, bool]:
    """Name -> whether it keeps requests from being accepted."""
    return {finding.name: finding.blocks for finding in found.values() if finding.wrong}


def test_all_is_well_with_servers_a_schema_and_a_worker(settings: Settings, records: Database) -> None:
    with records.write() as session:
        presence.seen(session, worker="w", queue="cpu", now=now())

    found = readiness(settings, records)

    assert wrong(found) == {}
    assert found["workers"].found == "1 for cpu"
    assert list(vault_of(settings).ids()) == []


def test_without_workers_requests_are_still_accepted_and_the_idle_queue_is_named(settings: Settings, records: Database) -> None:
    before = readiness(settings, records)
    with records.write() as session:
        presence.seen(session, worker="w", queue="cpu", now=now())
        session.add(Dataset(id="d", name="d", state="ready", source_sha256="", created_at=now()))
        session.flush()
        job = jobs.submit(session, kind="validate", dataset_id="d", model_id=None, method=None, now=now())
        job_queue = job.queue
        presence.seen(session, worker="w", queue="gpu" if job_queue == "cpu" else "cpu", now=now())

    after = readiness(settings, records)

    assert wrong(before) == wrong(after) == {"workers": False}
    assert before["workers"].wrong == "no worker gave a sign of life of late"
    assert after["workers"].wrong == f"jobs of the queue {job_queue} wait and no worker takes them"
    assert f"expunge worker --queue {job_queue}" in after["workers"].advice


def test_without_redis_requests_are_still_accepted_and_redis_is_named(settings: Settings, records: Database, redis: Server) -> None:
    redis.kill()

    found = readiness(settings, records)

    assert wrong(found)["hints"] is False
    assert "Redis does not answer" in str(found["hints"].wrong)


def test_without_the_database_nothing_is_accepted_and_the_same_process_recovers(tmp_path: Path, redis: Server) -> None:
    if no_servers():
        pytest.skip(str(no_servers()))
    with private_postgres() as server:
        migrate.upgrade(server.url)
        (tmp_path / "keys").mkdir(mode=0o700)
        settings = Settings(data_dir=tmp_path, keys_dir=tmp_path / "keys", database_url=server.url, redis_url=redis.url)
        records = Database(server.url)
        before = wrong(readiness(settings, records))

        server.signal(signal.SIGSTOP)  # as good as a cable pulled: it takes connections and says nothing
        begun = time.monotonic()
        silent = readiness(settings, records)
        waited = time.monotonic() - begun
        server.signal(signal.SIGCONT)
        server.stop("immediate")
        without = readiness(settings, records)
        server.start()
        after = wrong(readiness(settings, records))
        records.close()

    assert before == after == {"workers": False}
    for found in (silent, without):
        assert wrong(found)["database"] and wrong(found)["blobs"] and wrong(found)["migrations"]
    assert waited < 20
    # Anybody may ask: no address, user or password is told.
    assert not [f for f in without.values() if str(server.port) in str(f.wrong) or "127.0.0.1" in str(f.wrong)]


def test_an_old_schema_is_named_with_the_command_that_mends_it(settings: Settings, records: Database) -> None:
    command.downgrade(migrate.config(settings.records_url), "-1")

    found = readiness(settings, records)

    assert wrong(found)["migrations"] is True
    assert migrate.newest() in str(found["migrations"].wrong) and "expunge migrate" in found["migrations"].advice


def test_blobs_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    settings.keys_path.mkdir(parents=True, mode=0o700)
    migrate.upgrade(settings.records_url)
    vault = vault_of(settings)
    for entry in sorted((settings.data_dir / "blobs").rglob("*"), reverse=True):
        entry.rmdir() if entry.is_dir() else entry.unlink()
    (settings.data_dir / "blobs").rmdir()
    records = Database(settings.records_url)

    found = checks.blobs(vault)
    records.close()

    assert found.wrong and found.blocks
    assert list(vault.keys.ids()) == []


def test_a_clock_that_is_wrong_is_named(settings: Settings, records: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    right = checks.clock(records)
    real = now
    monkeypatch.setattr(checks, "now", lambda: real() + checks.SLOW_CLOCK * 3)

    ahead = checks.clock(records)

    assert right.wrong is None
    assert "6.0 s from the database's" in str(ahead.wrong)


def test_answers_are_kept_for_a_moment_because_some_checks_write(settings: Settings, records: Database) -> None:
    vault = vault_of(settings)
    asked = Readiness(settings, records, vault)

    first = asked.findings()
    (settings.keys_path / "blobs").chmod(0o500)
    second = asked.findings()

    assert second[2] is first[2]  # the blob was not written again


def test_the_running_service_tells_all_checks_and_is_ready(live: Live) -> None:
    answer = live.client.get("/readyz", headers={"Authorization": ""})

    assert (answer.status_code, answer.json()["status"], answer.json()["wrong"]) == (200, "ok", [])
    assert set(answer.json()["checks"]) == {"database", "migrations", "blobs", "disk", "hints", "workers", "clock"}


def run_doctor(tmp_path: Path, **environment: str) -> tuple[int, dict[str, Any], str]:
    own = {k: v for k, v in os.environ.items() if not k.startswith("EXPUNGE_")} | {"PYTHONPATH": str(ROOT)} | environment
    command = [sys.executable, "-m", "expunge.cli", "doctor", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=own, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


def said(document: dict[str, Any], name: str) -> dict[str, Any]:
    return next(check for check in document["checks"] if check["name"] == name)


def test_the_doctor_finds_nothing_wrong_beside_a_running_service_and_changes_nothing(live: Live, tmp_path: Path) -> None:
    data, before = live.directory / "data", len(live.client.get("/jobs").json())

    code, document, _ = run_doctor(tmp_path, EXPUNGE_DATA_DIR=str(data), EXPUNGE_URL=str(live.client.base_url))

    assert (code, document["ok"]) == (0, True), document
    assert said(document, "form")["said"] == "embedded"
    assert said(document, "service")["said"] == "answers, and is ready"
    assert said(document, "blobs")["said"] == "written, read, destroyed"
    assert len(live.client.get("/jobs").json()) == before


def test_the_doctor_on_a_bare_machine_makes_nothing(tmp_path: Path) -> None:
    code, document, _ = run_doctor(tmp_path, EXPUNGE_PORT="9")

    assert code == 0 and document["ok"]
    assert said(document, "records")["said"].startswith("none yet")
    assert list(tmp_path.iterdir()) == []


def test_the_doctor_names_open_keys_a_spoilt_signing_key_and_servers_that_are_away(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    keys.chmod(0o755)
    (keys / "signing.pem").write_text("junk")
    (keys / "signing.pem").chmod(0o600)
    away = {"EXPUNGE_DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:9/d", "EXPUNGE_REDIS_URL": "redis://:hunter2@127.0.0.1:9/0"}

    code, document, stderr = run_doctor(tmp_path, EXPUNGE_KEYS_DIR=str(keys), EXPUNGE_PORT="9", **away)

    assert code == 1 and not document["ok"]
    assert {check["name"] for check in document["checks"] if not check["ok"]} == {"keys", "signing key", "database", "hints"}
    assert "chmod 700" in said(document, "keys")["advice"]
    assert "hunter2" not in json.dumps(document) + stderr


@pytest.mark.parametrize("place", ["postgres:", "nowhere:x", "s3:"])
def test_the_doctor_names_a_place_for_blobs_that_cannot_be(live: Live, tmp_path: Path, place: str) -> None:
    code, document, _ = run_doctor(tmp_path, EXPUNGE_DATA_DIR=str(live.directory / "data"), EXPUNGE_BLOBS=place, EXPUNGE_PORT="9")

    assert code == 1
    assert "EXPUNGE_BLOBS" in said(document, "blobs")["said"]


def test_the_doctor_names_the_setting_that_is_wrong(tmp_path: Path) -> None:
    own = {k: v for k, v in os.environ.items() if not k.startswith("EXPUNGE_")} | {"PYTHONPATH": str(ROOT), "EXPUNGE_PORT": "none"}

    done = subprocess.run(
        [sys.executable, "-m", "expunge.cli", "doctor"], cwd=tmp_path, env=own, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 1
    assert "EXPUNGE_PORT" in done.stderr and "Traceback" not in done.stderr


def test_the_doctor_tells_people_in_lines_and_what_to_do(tmp_path: Path) -> None:
    found = doctor.examine(Settings(data_dir=tmp_path / "none", port=9), url=None)

    assert found.ok
    assert [finding.name for finding in found.findings] == ["form", "packages", "keys", "signing key", "records", "hints", "service"]
