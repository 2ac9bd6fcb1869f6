"""Statements that every request asks, compiled once: executing one through SQLAlchemy costs several times what the driver needs."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.sql.base import Executable
from sqlalchemy.sql.elements import CompilerElement


def shared(session: Session) -> bool:
    """Whether the record is PostgreSQL's, which other processes write too."""
    return session.get_bind().dialect.name == "postgresql"


class Ready:
    """One statement, for its first row. On PostgreSQL its text goes to the driver; what SQLite is asked goes through SQLAlchemy."""

    def __init__(self, statement: CompilerElement, *, shared: CompilerElement | None = None) -> None:
        """
        Args:
            statement: of SQLAlchemy's Core; its values have names.
            shared: in place of it on PostgreSQL.
        """
        assert isinstance(statement, Executable)
        self._statement, self._shared = statement, statement if shared is None else shared
        self._compiled: tuple[str, dict[str, Any]] | None = None

    def first(self, session: Session, **values: Any) -> tuple[Any, ...] | None:
        """Ask within the session's transaction, past its objects: what it has not flushed is not seen.

        Raises:
            DBAPIError: as SQLAlchemy does.
        """
        connection = session.connection()
        if not shared(session):
            return connection.execute(self._statement, values).first()
        if self._compiled is None:
            compiled = self._shared.compile(dialect=connection.dialect)
            self._compiled = compiled.string, dict(compiled.params)
        text, constants = self._compiled
        return _driven(connection, text, constants | {name: _plain(value) for name, value in values.items()})


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict) else value  # the text says which of the values are JSON


def _driven(connection: Connection, text: str, values: dict[str, Any]) -> tuple[Any, ...] | None:
    driver: Any = connection.connection.driver_connection
    names = connection.dialect.loaded_dbapi
    try:
        found: tuple[Any, ...] | None = driver.execute(text, values).fetchone()
    except names.Error as error:
        if driver.closed:  # the pool must not have it back
            connection.invalidate(error)
        # Under the names that everybody else's errors have, and without the values, which may be somebody's.
        raise DBAPIError.instance(text, None, error, names.Error, True, driver.closed, connection.dialect) from error
    return found
