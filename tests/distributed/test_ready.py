"""Statements that are handed to the driver fail as all others do, and give what all others give."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlalchemy import bindparam, func, select, text
from sqlalchemy.exc import DataError, IntegrityError, OperationalError

from service.db import Database
from service.ready import Ready
from service.tables import Dataset

T0 = datetime(2026, 3, 1, tzinfo=UTC)
SECRET = "anna.meier@example.org"
NAMED = select(Dataset.id, Dataset.summary, Dataset.created_at).where(Dataset.name == bindparam("name"))


def test_the_row_is_the_one_that_sqlalchemy_gives(db: Database) -> None:
    with db.write() as session:
        session.add(Dataset(id="ds", name="d", state="ready", source_sha256="0", summary={"shape": [2]}, created_at=T0))

    with db.read() as session:
        found, none = Ready(NAMED).first(session, name="d"), Ready(NAMED).first(session, name="other")
        other = session.connection().execute(NAMED, {"name": "d"}).first()

    assert found == other == ("ds", {"shape": [2]}, T0)
    assert none is None


def test_a_value_that_the_record_cannot_hold_is_a_data_error_that_does_not_repeat_it(db: Database) -> None:
    with pytest.raises(DataError) as raised, db.read() as session:
        Ready(NAMED).first(session, name=SECRET + "\0")

    assert SECRET not in str(raised.value)


def test_a_broken_rule_is_an_integrity_error_and_nothing_of_the_transaction_stays(db: Database) -> None:
    twice = text("INSERT INTO answers (caller, key, created_at) VALUES ('a', 'b', now()), ('a', 'b', now()) RETURNING key")

    with pytest.raises(IntegrityError), db.write() as session:
        session.add(Dataset(id="ds", name="d", state="ready", source_sha256="0", created_at=T0))
        session.flush()
        Ready(twice).first(session)

    with db.read() as session:
        assert session.get(Dataset, "ds") is None


def test_a_connection_that_was_cut_is_an_outage_once_and_is_not_used_again(db: Database) -> None:
    with pytest.raises(OperationalError), db.write() as session:
        Ready(select(func.pg_terminate_backend(func.pg_backend_pid()))).first(session)

    with db.write() as session:
        assert Ready(select(func.count()).select_from(Dataset)).first(session) == (0,)
