"""Runs migrations against the database that the caller names."""

from __future__ import annotations

from alembic import context
from sqlalchemy import create_engine, pool, text

from service.tables import Base


def run() -> None:
    url = context.config.get_main_option("sqlalchemy.url")
    assert url is not None
    engine = create_engine(url, poolclass=pool.NullPool)
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
        with context.begin_transaction():
            if engine.dialect.name == "postgresql":  # two that start together: the second finds nothing left to do
                connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('migrate', 0))"))
            context.run_migrations()


run()
