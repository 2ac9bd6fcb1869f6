"""What an operator can set: read once, at the edge, from the environment."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.states import Queue


class Settings(BaseSettings):
    """Settings of one service, each `EXPUNGE_<NAME>` in the environment."""

    model_config = SettingsConfigDict(env_prefix="EXPUNGE_", extra="ignore")

    data_dir: Path = Path("expunge-data")
    keys_dir: Path | None = None
    signing_key_file: Path | None = None
    blobs: str = ""
    """Where ciphertext is kept: `directory:PATH`, `postgres:` or `s3:...`. Default: a directory; with PostgreSQL `postgres:`."""
    database_url: str = Field(default="", repr=False)
    """`postgresql+psycopg://...` makes the service distributed. Default: SQLite in the data directory, one process."""
    redis_url: str = Field(default="", repr=False)
    """Where hints travel. Needed with PostgreSQL, unused without."""
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)

    lease_seconds: float = Field(default=15.0, gt=0)
    """How long a claimed job may go without a sign of life before another worker may take it."""
    max_attempts: int = Field(default=3, ge=1)
    """Failures charged to a job before it is parked as failed."""
    max_claims: int = Field(default=50, ge=1)
    """Claims of one job before it is parked: a job that takes the whole process down charges no failure."""
    job_seconds: float = Field(default=86_400.0, gt=0)
    """Longest that one claim of a job may compute before it is ended as failed."""
    part_rows: int = Field(default=8192, ge=1)
    """Rows of a data set that one part of a split job takes; work on a data set of some such parts is shared among the workers."""
    checkpoint_seconds: float = Field(default=20.0, ge=0)
    """How often removing an attribute writes down how far it is: what a crash may cost."""
    training_queue: Queue = "cpu"
    """Which workers train: with `gpu`, fitting, `retrain`, `cg` and `sgd` wait for a worker of the queue gpu."""
    rollback_days: float = Field(default=3.0, ge=0)
    """How long a withdrawn version's weights stay sealed before their key is destroyed."""
    max_upload_bytes: int = Field(default=4 << 30, gt=0)
    max_rows: int = Field(default=5_000_000, gt=0)
    max_expansion: float = Field(default=400.0, gt=1)
    """Largest ratio of decoded to uploaded bytes: a small file must not become a large memory."""

    @field_validator("database_url")
    @classmethod
    def _is_known(cls, url: str) -> str:
        # The plain scheme is what most tools print; the driver is ours to name.
        for scheme in ("postgresql://", "postgres://"):
            if url.startswith(scheme):
                url = f"postgresql+psycopg://{url.removeprefix(scheme)}"
        if url and not url.startswith(("postgresql+psycopg://", "sqlite:///")):
            raise ValueError("must be postgresql+psycopg://... (or sqlite:///... for one process)")
        return url

    @model_validator(mode="after")
    def _has_both_servers(self) -> Settings:
        if self.distributed and not self.redis_url:
            raise ValueError("EXPUNGE_REDIS_URL is needed with EXPUNGE_DATABASE_URL=postgresql...")
        return self

    @property
    def distributed(self) -> bool:
        """Many processes over PostgreSQL and Redis, instead of one over a directory."""
        return self.database_url.startswith("postgresql")

    @property
    def records_url(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir / 'expunge.sqlite3'}"

    @property
    def blobs_place(self) -> str:
        return self.blobs or ("postgres:" if self.distributed else f"directory:{self.data_dir / 'blobs'}")

    @property
    def keys_path(self) -> Path:
        return self.keys_dir or self.data_dir / "keys"

    @property
    def signing_key_path(self) -> Path:
        return self.signing_key_file or self.keys_path / "signing.pem"

    @property
    def lease(self) -> timedelta:
        return timedelta(seconds=self.lease_seconds)

    @property
    def rollback(self) -> timedelta:
        return timedelta(days=self.rollback_days)
