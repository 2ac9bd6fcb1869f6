"""events found by their kind: the metrics count lost leases"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("events_of_kind", "events", ["kind"])


def downgrade() -> None:
    op.drop_index("events_of_kind", "events")
