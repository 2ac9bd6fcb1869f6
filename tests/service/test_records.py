"""Migrations, due dates, and what the record's own rules refuse."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text
from sqlalchemy.exc import IntegrityError

from service import migrate, requests
from service.db import Database
from service.tables import Base

BLOBS = {"blobs", "blob_chunks"}
"""Tables of the blob store, which speaks to PostgreSQL without the record's classes."""


def test_the_migrations_make_the_very_tables_that_the_code_describes(record: str) -> None:
    migrate.upgrade(record)
    database = Database(record)

    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_name": lambda name, kind, _: kind != "table" or name not in BLOBS})
        difference = compare_metadata(context, Base.metadata)

    assert difference == []


def test_migrations_go_down_and_up_again(record: str) -> None:
    migrate.upgrade(record)

    command.downgrade(migrate.config(record), "base")
    bare = inspect(Database(record).engine).get_table_names()
    migrate.upgrade(record)

    assert bare == ["alembic_version"]
    assert set(inspect(Database(record).engine).get_table_names()) - BLOBS == {*Base.metadata.tables, "alembic_version"}


@pytest.mark.parametrize(
    ("received", "due"),
    [("2026-01-15", "2026-02-15"), ("2026-01-31", "2026-02-28"), ("2028-01-31", "2028-02-29"), ("2026-12-31", "2027-01-31"),
     ("2026-02-28", "2026-03-28"), ("2026-08-31", "2026-09-30")],
)  # fmt: skip
def test_an_answer_is_due_one_calendar_month_later(received: str, due: str) -> None:
    start = datetime.fromisoformat(received).replace(hour=23, minute=59, tzinfo=UTC)

    assert requests.month_later(start) == datetime.fromisoformat(due).replace(hour=23, minute=59, tzinfo=UTC)


@pytest.mark.parametrize(
    "wrong",
    ["state = 'sleeping'", "state = 'running'", "state = 'done'", "kind = 'mine'"],
)
def test_the_database_refuses_a_job_in_an_impossible_state(record: str, wrong: str) -> None:
    migrate.upgrade(record)
    database = Database(record)
    with database.write() as session:
        session.execute(
            text("INSERT INTO datasets (id, name, state, source_sha256, created_at) VALUES ('d', 'd', 'ready', '0', '2026-01-01')")
        )
        session.execute(text("INSERT INTO jobs (id, kind, lane, dataset_id, state, run_after, created_at)"
                             " VALUES ('j', 'validate', 'd', 'd', 'queued', '2026-01-01', '2026-01-01')"))  # fmt: skip

    with pytest.raises(IntegrityError), database.write() as session:
        session.execute(text(f"UPDATE jobs SET {wrong}"))


@pytest.mark.parametrize(
    ("counts", "state"),
    [({"forgotten": 2}, "fulfilled"), ({"not_found": 1}, "fulfilled"), ({"already_forgotten": 1}, "fulfilled"), ({}, "fulfilled"),
     ({"forgotten": 1, "core_sample": 1}, "partial"), ({"already_forgotten": 1, "core_sample": 1}, "partial"),
     ({"core_sample": 2}, "refused"), ({"core_sample": 2, "not_found": 1}, "refused")],
)  # fmt: skip
def test_a_request_ends_as_its_dispositions_say(counts: dict[str, int], state: str) -> None:
    assert requests.final_state({"counts": counts}) == state
