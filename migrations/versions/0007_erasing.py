"""removing attributes: a kind of job, how far one came, and the files that show how its result was reached"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs") as jobs:
        jobs.add_column(sa.Column("checkpoint", sa.JSON(), nullable=True))
        jobs.add_column(sa.Column("evidence", sa.JSON(), nullable=True))
        jobs.drop_constraint("job_kind", type_="check")
        jobs.create_check_constraint("job_kind", "kind IN ('validate', 'fit', 'forget', 'erase', 'block')")


def downgrade() -> None:
    # A version that a job of this kind published stands on it, and so does its certificate: the kind is then told as the older code can.
    op.execute("UPDATE jobs SET kind = 'forget' WHERE kind = 'erase' AND state NOT IN ('queued', 'running')")
    op.execute(
        "UPDATE jobs SET kind = 'forget', state = 'cancelled', lease_until = NULL, finished_at = created_at WHERE kind = 'erase'"
    )
    op.execute("UPDATE requests SET state = 'cancelled', finished_at = received_at WHERE kind = 'attribute' AND finished_at IS NULL")
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_constraint("job_kind", type_="check")
        jobs.create_check_constraint("job_kind", "kind IN ('validate', 'fit', 'forget', 'block')")
        jobs.drop_column("evidence")
        jobs.drop_column("checkpoint")
