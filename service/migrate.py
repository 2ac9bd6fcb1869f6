"""The database's schema, brought up to date by Alembic."""

from __future__ import annotations

from importlib.resources import files

from alembic import command
from alembic.config import Config


def config(url: str) -> Config:
    written = Config()
    written.set_main_option("script_location", str(files("migrations")))
    written.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return written


def upgrade(url: str) -> None:
    command.upgrade(config(url), "head")
