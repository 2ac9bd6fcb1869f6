"""blobs in the database: chunk rows of ciphertext, on PostgreSQL alone"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    op.create_table(
        "blobs",
        # Collation C: names in the order of their bytes, and a prefix found by the index.
        sa.Column("blob", sa.Text(collation="C"), primary_key=True),
        # NULL while the blob is being written: a blob is there once its trailer is.
        sa.Column("trailer", sa.LargeBinary()),
        sa.Column("begun_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    )
    op.create_table(
        "blob_chunks",
        # The key lets a writer that goes on after its blob was removed store nothing more.
        sa.Column("blob", sa.Text(collation="C"), sa.ForeignKey("blobs.blob", ondelete="CASCADE"), primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True),
        sa.Column("data", sa.LargeBinary(), nullable=False),
    )
    # Ciphertext does not compress: EXTERNAL spares the attempt, and lets lengths be read without the bytes.
    op.execute("ALTER TABLE blob_chunks ALTER COLUMN data SET STORAGE EXTERNAL")


class BlobsLeft(Exception):
    """The tables to be dropped hold the only copy of weights and data."""


def downgrade() -> None:
    """Drop the tables if nothing is in them.

    Raises:
        BlobsLeft: there is.
    """
    if op.get_bind().dialect.name != "postgresql":
        return
    if op.get_bind().execute(sa.text("SELECT 1 FROM blobs LIMIT 1")).first():
        raise BlobsLeft("the database holds blobs: a schema before 0002 has no place for them, and they would be lost")
    op.drop_table("blob_chunks")
    op.drop_table("blobs")
