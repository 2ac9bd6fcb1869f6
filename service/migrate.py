"""The database's schema, brought up to date by Alembic."""

from __future__ import annotations

from importlib.resources import files

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine


class SchemaBehind(Exception):
    """The database's tables are not those that this code describes."""


def config(url: str) -> Config:
    written = Config()
    written.set_main_option("script_location", str(files("migrations")))
    written.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return written


def upgrade(url: str) -> None:
    command.upgrade(config(url), "head")


def newest() -> str:
    """The revision that this code was written for."""
    head = ScriptDirectory.from_config(config("")).get_current_head()
    assert head is not None
    return head


def current(engine: Engine) -> str | None:
    """The revision that the database is at; None before the first migration."""
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def require_newest(engine: Engine) -> None:
    """Refuse to work on other tables than the code's.

    Raises:
        SchemaBehind: with what to do.
    """
    found, wanted = current(engine), newest()
    if found != wanted:
        raise SchemaBehind(f"the database is at revision {found or 'none'}, this program needs {wanted}: run `expunge migrate` first")
