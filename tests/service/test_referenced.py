"""Which blobs the record points at: every place that can name one, and, for a claim's few, only those of its name."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from service import erasure, jobs, migrate
from service.db import Database
from service.tables import Certificate, Dataset, DatasetBlock, Job, Model, ModelBlock, Request, Shred, Version

T0 = datetime(2026, 1, 31, 12, tzinfo=UTC)
OURS, OTHERS = "job_1-", "jobs1-"
"""The second differs from the first only where an underscore, taken for a wildcard, would match it."""


def pointing(name: str) -> list[str]:
    """One blob for each place that can name one."""
    places = ("source", "index", "rows", "core", "state", "features", "body", "receipts", "user", "part", "sums", "kept", "curve", "due")
    return [f"{name}{place}" for place in places]


@pytest.fixture(params=[OURS, OTHERS])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def db(record: str) -> Iterator[Database]:
    migrate.upgrade(record)
    database = Database(record)
    with database.write() as session:
        for number, whose in enumerate((OURS, OTHERS)):
            fill(session, number, *pointing(whose))
    yield database
    database.close()


def fill(session, n, source, index, rows, core, state, features, body, receipts, user, part, sums, kept, curve, due) -> None:  # type: ignore[no-untyped-def]
    session.add(Dataset(id=f"ds{n}", name=f"d{n}", state="ready", source_sha256="0", created_at=T0, source_blob=source, index_blob=index))
    session.flush()
    session.add(Model(id=f"m{n}", name=f"m{n}", dataset_id=f"ds{n}", state="ready", spec={}, created_at=T0, given_core_blob=core,
                      state_blobs={"statistics": state}))  # fmt: skip
    session.flush()
    job = jobs.submit(session, kind="fit", dataset_id=f"ds{n}", model_id=f"m{n}", method=None, now=T0)
    job.result = {"blocks": [{"number": 0, "blob": part, "rows": 1}], "blobs": {"statistics": sums}}
    job.checkpoint, job.evidence = {"blobs": {"weights": kept}}, {"curve.csv": {"blob": curve, "sha256": "0", "size": 1}}
    session.add(DatasetBlock(dataset_id=f"ds{n}", number=0, blob=rows, rows=1))
    session.add(ModelBlock(model_id=f"m{n}", number=0, blob=features, rows=1))
    session.add(Shred(blob=due, job_id=job.id, what="x", due_at=T0))
    session.add(Certificate(statement=f"s{n}", kind="fit", job_id=job.id, files={}))
    session.flush()
    session.add(Version(model_id=f"m{n}", number=1, state="certified", job_id=job.id, statement=f"s{n}", facts={}, created_at=T0,
                        files={"user.safetensors": {"blob": user, "sha256": "0", "size": 1}}))  # fmt: skip
    session.add(Request(id=f"r{n}", model_id=f"m{n}", job_id=job.id, caller="c", kind="samples", method="exact", why="", state="received",
                        body_blob=body, receipts_blob=receipts, received_at=T0, due_at=T0))  # fmt: skip


def test_every_place_that_can_name_a_blob_counts(db: Database) -> None:
    with db.read() as session:
        found = erasure.referenced(session)

    assert found == {*pointing(OURS), *pointing(OTHERS)}


def test_asked_for_names_that_begin_so_it_gives_those_and_no_others(db: Database, name: str) -> None:
    with db.read() as session:
        found, none = erasure.referenced(session, name), erasure.referenced(session, name.upper())

    assert found == set(pointing(name))
    assert none == set()


def test_records_that_name_nothing_are_no_obstacle(db: Database) -> None:
    with db.write() as session:
        jobs.submit(session, kind="fit", dataset_id="ds0", model_id="m0", method=None, now=T0)
        for job in session.query(Job):
            job.result = job.checkpoint = job.evidence = None
        for model in session.query(Model):
            model.state_blobs = model.given_core_blob = None

    with db.read() as session:
        found = erasure.referenced(session, OURS)

    assert found == set(pointing(OURS)) - {f"{OURS}{place}" for place in ("core", "state", "part", "sums", "kept", "curve")}
