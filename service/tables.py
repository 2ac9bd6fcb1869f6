"""The record: every table of the service. Ids of samples and of people never stand here; they live in encrypted blobs."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import JSON, CheckConstraint, ForeignKey, Index, LargeBinary, Text, UniqueConstraint, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from service.db import Instant
from service.states import DatasetState, JobKind, JobState, ModelState, Queue, RequestKind, RequestState, VersionState, one_of


class Base(DeclarativeBase):
    type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: Instant(), dict[str, Any]: JSON(), list[Any]: JSON(), str: Text()}


class ApiKey(Base):
    """Who may call, and for what. Only a hash of the secret is kept."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    secret_hash: Mapped[str]
    scopes: Mapped[list[Any]]
    created_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class Answer(Base):
    """What one caller was told under one Idempotency-Key. The body is kept as a keyed hash."""

    __tablename__ = "answers"

    caller: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    body_tag: Mapped[str | None]
    status: Mapped[int | None]
    headers: Mapped[dict[str, Any] | None]
    body: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime]


class Dataset(Base):
    """Rows that models are fitted on: encrypted blocks and one encrypted index."""

    __tablename__ = "datasets"
    __table_args__ = (CheckConstraint(one_of("state", DatasetState), name="dataset_state"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    state: Mapped[DatasetState] = mapped_column(Text)
    source_blob: Mapped[str | None]
    index_blob: Mapped[str | None]
    source_sha256: Mapped[str]
    summary: Mapped[dict[str, Any] | None]
    """Counts by role and label, the shape of one input, the attributes' names."""
    error: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime]


class DatasetBlock(Base):
    """About 1,000 rows of a dataset; the unit of erasure."""

    __tablename__ = "dataset_blocks"

    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    blob: Mapped[str]
    rows: Mapped[int]


class Model(Base):
    """A trained network and its history of versions. Its form is fixed here, at creation."""

    __tablename__ = "models"
    __table_args__ = (CheckConstraint(one_of("state", ModelState), name="model_state"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    state: Mapped[ModelState] = mapped_column(Text)
    spec: Mapped[dict[str, Any]]
    given_core_blob: Mapped[str | None]
    state_blobs: Mapped[dict[str, Any] | None]
    """Private blobs that the next forget job reads: statistics, core_statistics, index, audit; or index, curvature."""
    error: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime]


class ModelBlock(Base):
    """Integer feature rows of a model's user rows, with their ids; the very rows that were added to (A, B)."""

    __tablename__ = "model_blocks"

    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    blob: Mapped[str]
    rows: Mapped[int]


class Tombstone(Base):
    """HMAC(service key, model, sample_id) of what a model forgot, so that asking twice is answered truthfully."""

    __tablename__ = "tombstones"

    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), primary_key=True)
    tag: Mapped[str] = mapped_column(primary_key=True)


class Job(Base):
    """One piece of work, from acceptance to its final state. The row is the truth; a hint is only a hint."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(one_of("state", JobState), name="job_state"),
        CheckConstraint(one_of("kind", JobKind), name="job_kind"),
        CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name="lease_iff_running"),
        CheckConstraint("(state IN ('queued', 'running')) = (finished_at IS NULL)", name="finished_iff_final"),
        # Two jobs never change one dataset's rows at once: the second would resurrect what the first erased.
        Index(
            "one_running_job_a_lane",
            "lane",
            unique=True,
            sqlite_where=text("state = 'running'"),
            postgresql_where=text("state = 'running'"),
        ),
        Index("queue", "state", "run_after"),
        Index("turns", "model_id", "started_at"),
        Index("parts", "parent_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[JobKind] = mapped_column(Text)
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id", name="part_of_job"))
    """The running job that this is a part of (kind `block`). A part is open only while that job runs under the claim that split it."""
    lane: Mapped[str]
    """Of jobs of one lane one runs: the data set's id. A part has a lane to itself, by which its blobs are named."""
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    model_id: Mapped[str | None] = mapped_column(ForeignKey("models.id"))
    method: Mapped[str | None]
    queue: Mapped[Queue] = mapped_column(Text, server_default="cpu")
    """Which workers take it."""
    state: Mapped[JobState] = mapped_column(Text)
    fence: Mapped[int] = mapped_column(server_default="0")
    """Counts claims; shuts out a worker that lost its lease."""
    attempt: Mapped[int] = mapped_column(server_default="0")
    """Counts failures charged to the job."""
    worker: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    run_after: Mapped[datetime]
    due_at: Mapped[datetime | None]
    """When the earliest of its requests must be answered."""
    task: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """What a part is to do: names of blobs, no ids of samples. Or what an audit is to find out: version, audits and counts."""
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """What a part made, for as long as its job may still ask for it. Or `solver`: how far the solver came in a job that was refused."""
    checkpoint: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """How far a long computation came, for the next claim to go on from: figures, and names of `blobs`."""
    evidence: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """Files about how the result was reached, name -> {blob, sha256, size}. They hold counts and figures, and outlive the version."""
    phase: Mapped[str | None]
    progress: Mapped[float] = mapped_column(server_default="0")
    version: Mapped[int | None]
    statement: Mapped[str | None]
    """sha256 of the signed statement: of the version, or of the refusal."""
    error: Mapped[dict[str, Any] | None]
    seconds: Mapped[dict[str, Any] | None]
    """Seconds spent a phase, for the engineer who asks where the time went."""
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Event(Base):
    """What happened to a job, in order."""

    __tablename__ = "events"
    __table_args__ = (Index("events_of_job", "job_id", "id"), Index("events_of_kind", "kind"))

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    at: Mapped[datetime]
    kind: Mapped[str]
    data: Mapped[dict[str, Any]]


class Request(Base):
    """The legal side: somebody asked on a day, an answer is due on a day. What was asked lies in an encrypted blob."""

    __tablename__ = "requests"
    __table_args__ = (CheckConstraint(one_of("state", RequestState), name="request_state"), Index("requests_of_job", "job_id"))

    id: Mapped[str] = mapped_column(primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    caller: Mapped[str]
    kind: Mapped[RequestKind] = mapped_column(Text)
    method: Mapped[str]
    why: Mapped[str]
    guarantee: Mapped[dict[str, Any] | None]
    """What was asked and, once it is published, what was given."""
    state: Mapped[RequestState] = mapped_column(Text)
    reason: Mapped[str | None]
    reference: Mapped[str | None]
    body_blob: Mapped[str | None]
    dispositions: Mapped[dict[str, Any] | None]
    receipts_blob: Mapped[str | None]
    received_at: Mapped[datetime]
    due_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class Version(Base):
    """One immutable version of a model. It exists only together with its certificate."""

    __tablename__ = "versions"
    __table_args__ = (
        CheckConstraint(one_of("state", VersionState), name="version_state"),
        UniqueConstraint("job_id", name="one_version_a_job"),
    )

    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[VersionState] = mapped_column(Text)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    statement: Mapped[str] = mapped_column(ForeignKey("certificates.statement"), unique=True)
    files: Mapped[dict[str, Any]]
    """name -> {blob, sha256, size}."""
    facts: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    withdrawn_at: Mapped[datetime | None]


class Certificate(Base):
    """A signed statement and the files that go with it. No personal data: it outlives what it speaks of."""

    __tablename__ = "certificates"

    statement: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    files: Mapped[dict[str, Any]]
    """name -> text of certificate.sigstore.json, svr.sigstore.json, model.sig, signer.pub, inclusion.json."""


class LogLeaf(Base):
    """One leaf of the transparency log (RFC 6962), append only."""

    __tablename__ = "log"

    index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    leaf: Mapped[bytes] = mapped_column(LargeBinary)
    leaf_hash: Mapped[str]
    peaks: Mapped[list[Any]]
    """Roots of the complete subtrees after this leaf: enough to append the next in O(log n)."""
    at: Mapped[datetime]


class Shred(Base):
    """A blob whose key must be destroyed: at once after publishing, or when the rollback window ends."""

    __tablename__ = "shreds"
    __table_args__ = (Index("shreds_due", "done_at", "due_at"),)

    blob: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    what: Mapped[str]
    due_at: Mapped[datetime]
    done_at: Mapped[datetime | None]


class Worker(Base):
    """A worker process that lives, or lived: it says so every few seconds."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(primary_key=True)
    queue: Mapped[str]
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]
