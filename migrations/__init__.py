"""Alembic migrations; file names say what changed."""
