"""parts of jobs: what any worker may carry out of a job that another has in hand"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs") as jobs:
        jobs.add_column(sa.Column("parent_id", sa.Text(), nullable=True))
        jobs.add_column(sa.Column("task", sa.JSON(), nullable=True))
        jobs.add_column(sa.Column("result", sa.JSON(), nullable=True))
        jobs.create_foreign_key("part_of_job", "jobs", ["parent_id"], ["id"])
        jobs.create_index("parts", ["parent_id"])
        jobs.drop_constraint("job_kind", type_="check")
        jobs.create_check_constraint("job_kind", "kind IN ('validate', 'fit', 'forget', 'block')")


def downgrade() -> None:
    # A part is nothing without its job, and that one is begun again.
    op.execute("DELETE FROM events WHERE job_id IN (SELECT id FROM jobs WHERE kind = 'block')")
    op.execute("DELETE FROM jobs WHERE kind = 'block'")
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_constraint("job_kind", type_="check")
        jobs.create_check_constraint("job_kind", "kind IN ('validate', 'fit', 'forget')")
        jobs.drop_index("parts")
        jobs.drop_constraint("part_of_job", type_="foreignkey")
        jobs.drop_column("result")
        jobs.drop_column("task")
        jobs.drop_column("parent_id")
