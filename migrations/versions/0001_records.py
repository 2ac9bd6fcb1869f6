"""records of datasets, models, jobs, requests, versions and the log"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

import service.db

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _from_answers_on()
    _from_dataset_blocks_on()
    _from_jobs_on()
    _from_model_blocks_on()
    _from_requests_on()
    _from_versions_on()


def downgrade() -> None:
    op.drop_table("versions")
    with op.batch_alter_table("shreds", schema=None) as batch_op:
        batch_op.drop_index("shreds_due")

    op.drop_table("shreds")
    with op.batch_alter_table("requests", schema=None) as batch_op:
        batch_op.drop_index("requests_of_job")

    op.drop_table("requests")
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.drop_index("events_of_job")

    op.drop_table("events")
    op.drop_table("certificates")
    op.drop_table("tombstones")
    op.drop_table("model_blocks")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_index("queue")
        batch_op.drop_index(
            "one_running_job_a_lane", sqlite_where=sa.text("state = 'running'"), postgresql_where=sa.text("state = 'running'")
        )

    op.drop_table("jobs")
    op.drop_table("models")
    op.drop_table("dataset_blocks")
    op.drop_table("log")
    op.drop_table("datasets")
    op.drop_table("api_keys")
    op.drop_table("answers")


def _from_answers_on() -> None:
    op.create_table(
        "answers",
        sa.Column("caller", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("body_tag", sa.Text(), nullable=True),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("headers", sa.JSON(), nullable=True),
        sa.Column("body", sa.JSON(), nullable=True),
        sa.Column("created_at", service.db.Instant(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("caller", "key"),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("secret_hash", sa.Text(), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_at", service.db.Instant(timezone=True), nullable=False),
        sa.Column("revoked_at", service.db.Instant(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "datasets",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("source_blob", sa.Text(), nullable=True),
        sa.Column("index_blob", sa.Text(), nullable=True),
        sa.Column("source_sha256", sa.Text(), nullable=False),
        sa.Column("summary", sa.JSON(), nullable=True),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("created_at", service.db.Instant(timezone=True), nullable=False),
        sa.CheckConstraint("state IN ('validating', 'ready', 'failed')", name="dataset_state"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "log",
        sa.Column("index", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("leaf", sa.LargeBinary(), nullable=False),
        sa.Column("leaf_hash", sa.Text(), nullable=False),
        sa.Column("peaks", sa.JSON(), nullable=False),
        sa.Column("at", service.db.Instant(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("index"),
    )


def _from_dataset_blocks_on() -> None:
    op.create_table(
        "dataset_blocks",
        sa.Column("dataset_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("blob", sa.Text(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_id"],
            ["datasets.id"],
        ),
        sa.PrimaryKeyConstraint("dataset_id", "number"),
    )
    op.create_table(
        "models",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("dataset_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("given_core_blob", sa.Text(), nullable=True),
        sa.Column("state_blobs", sa.JSON(), nullable=True),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("created_at", service.db.Instant(timezone=True), nullable=False),
        sa.CheckConstraint("state IN ('awaiting_core', 'fitting', 'ready', 'failed')", name="model_state"),
        sa.ForeignKeyConstraint(
            ["dataset_id"],
            ["datasets.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )


def _from_jobs_on() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("dataset_id", sa.Text(), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=True),
        sa.Column("method", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("fence", sa.Integer(), server_default="0", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("lease_until", service.db.Instant(timezone=True), nullable=True),
        sa.Column("run_after", service.db.Instant(timezone=True), nullable=False),
        sa.Column("phase", sa.Text(), nullable=True),
        sa.Column("progress", sa.Double(), server_default="0", nullable=False),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("statement", sa.Text(), nullable=True),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("seconds", sa.JSON(), nullable=True),
        sa.Column("created_at", service.db.Instant(timezone=True), nullable=False),
        sa.Column("started_at", service.db.Instant(timezone=True), nullable=True),
        sa.Column("finished_at", service.db.Instant(timezone=True), nullable=True),
        sa.CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name="lease_iff_running"),
        sa.CheckConstraint("(state IN ('queued', 'running')) = (finished_at IS NULL)", name="finished_iff_final"),
        sa.CheckConstraint("kind IN ('validate', 'fit', 'forget')", name="job_kind"),
        sa.CheckConstraint("state IN ('queued', 'running', 'done', 'refused', 'failed', 'cancelled')", name="job_state"),
        sa.ForeignKeyConstraint(
            ["dataset_id"],
            ["datasets.id"],
        ),
        sa.ForeignKeyConstraint(
            ["model_id"],
            ["models.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.create_index(
            "one_running_job_a_lane",
            ["lane"],
            unique=True,
            sqlite_where=sa.text("state = 'running'"),
            postgresql_where=sa.text("state = 'running'"),
        )
        batch_op.create_index("queue", ["state", "run_after"], unique=False)


def _from_model_blocks_on() -> None:
    op.create_table(
        "model_blocks",
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("blob", sa.Text(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id"],
            ["models.id"],
        ),
        sa.PrimaryKeyConstraint("model_id", "number"),
    )
    op.create_table(
        "tombstones",
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("tag", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id"],
            ["models.id"],
        ),
        sa.PrimaryKeyConstraint("model_id", "tag"),
    )
    op.create_table(
        "certificates",
        sa.Column("statement", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("files", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["jobs.id"],
        ),
        sa.PrimaryKeyConstraint("statement"),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("at", service.db.Instant(timezone=True), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["jobs.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.create_index("events_of_job", ["job_id", "id"], unique=False)


def _from_requests_on() -> None:
    op.create_table(
        "requests",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=True),
        sa.Column("caller", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("reference", sa.Text(), nullable=True),
        sa.Column("body_blob", sa.Text(), nullable=True),
        sa.Column("dispositions", sa.JSON(), nullable=True),
        sa.Column("receipts_blob", sa.Text(), nullable=True),
        sa.Column("received_at", service.db.Instant(timezone=True), nullable=False),
        sa.Column("due_at", service.db.Instant(timezone=True), nullable=False),
        sa.Column("finished_at", service.db.Instant(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('received', 'in_progress', 'fulfilled', 'partial', 'refused', 'cancelled', 'failed')", name="request_state"
        ),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["jobs.id"],
        ),
        sa.ForeignKeyConstraint(
            ["model_id"],
            ["models.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("requests", schema=None) as batch_op:
        batch_op.create_index("requests_of_job", ["job_id"], unique=False)
    op.create_table(
        "shreds",
        sa.Column("blob", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=True),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("due_at", service.db.Instant(timezone=True), nullable=False),
        sa.Column("done_at", service.db.Instant(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["jobs.id"],
        ),
        sa.PrimaryKeyConstraint("blob"),
    )
    with op.batch_alter_table("shreds", schema=None) as batch_op:
        batch_op.create_index("shreds_due", ["done_at", "due_at"], unique=False)


def _from_versions_on() -> None:
    op.create_table(
        "versions",
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("statement", sa.Text(), nullable=False),
        sa.Column("files", sa.JSON(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("created_at", service.db.Instant(timezone=True), nullable=False),
        sa.Column("withdrawn_at", service.db.Instant(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('certified', 'withdrawn')", name="version_state"),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["jobs.id"],
        ),
        sa.ForeignKeyConstraint(
            ["model_id"],
            ["models.id"],
        ),
        sa.ForeignKeyConstraint(
            ["statement"],
            ["certificates.statement"],
        ),
        sa.PrimaryKeyConstraint("model_id", "number"),
        sa.UniqueConstraint("job_id", name="one_version_a_job"),
        sa.UniqueConstraint("statement"),
    )
