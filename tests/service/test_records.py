"""Migrations, due dates, and what the record's own rules refuse."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text
from sqlalchemy.exc import IntegrityError

from service import migrate, requests
from service.db import Database
from service.tables import Base


def test_the_migrations_make_the_very_tables_that_the_code_describes(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.sqlite3'}"
    migrate.upgrade(url)
    database = Database(url)

    with database.engine.connect() as connection:
        difference = compare_metadata(MigrationContext.configure(connection), Base.metadata)

    assert difference == []


def test_migrations_go_down_and_up_again(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.sqlite3'}"
    migrate.upgrade(url)

    command.downgrade(migrate.config(url), "base")
    bare = inspect(Database(url).engine).get_table_names()
    migrate.upgrade(url)

    assert bare == ["alembic_version"]
    assert set(inspect(Database(url).engine).get_table_names()) == {*Base.metadata.tables, "alembic_version"}


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
def test_the_database_refuses_a_job_in_an_impossible_state(tmp_path: Path, wrong: str) -> None:
    url = f"sqlite:///{tmp_path / 'a.sqlite3'}"
    migrate.upgrade(url)
    database = Database(url)
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
