"""what decides which job is taken next, and by whom: queues, due dates, when a model last had its turn"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

import service.db

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("due_at", service.db.Instant(timezone=True), nullable=True))
    op.add_column("jobs", sa.Column("queue", sa.Text(), server_default="cpu", nullable=False))
    op.create_index("turns", "jobs", ["model_id", "started_at"])
    # Jobs that wait while the schema changes keep their place among the urgent.
    op.execute(
        "UPDATE jobs SET due_at = (SELECT min(requests.due_at) FROM requests WHERE requests.job_id = jobs.id)"
        " WHERE state IN ('queued', 'running')"
    )


def downgrade() -> None:
    op.drop_index("turns", "jobs")
    op.drop_column("jobs", "queue")
    op.drop_column("jobs", "due_at")
