"""which workers live; events found by their kind, for the metrics"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

import service.db

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "workers",
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("started_at", service.db.Instant(timezone=True), nullable=False),
        sa.Column("seen_at", service.db.Instant(timezone=True), nullable=False),
    )
    op.create_index("events_of_kind", "events", ["kind"])


def downgrade() -> None:
    op.drop_index("events_of_kind", "events")
    op.drop_table("workers")
