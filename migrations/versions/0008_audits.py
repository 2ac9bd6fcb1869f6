"""audits of a version, without forgetting: a kind of job"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_constraint("job_kind", type_="check")
        jobs.create_check_constraint("job_kind", "kind IN ('validate', 'fit', 'forget', 'erase', 'audit', 'block')")


def downgrade() -> None:
    # A signed statement stands on such a job: it stays, under the kind that changes nothing either.
    op.execute("UPDATE jobs SET state = 'cancelled', lease_until = NULL, finished_at = created_at "
               "WHERE kind = 'audit' AND state IN ('queued', 'running')")  # fmt: skip
    op.execute("UPDATE jobs SET kind = 'validate', task = NULL WHERE kind = 'audit'")
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_constraint("job_kind", type_="check")
        jobs.create_check_constraint("job_kind", "kind IN ('validate', 'fit', 'forget', 'erase', 'block')")
