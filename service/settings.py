"""What an operator can set: read once, at the edge, from the environment."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Settings of one service, each `EXPUNGE_<NAME>` in the environment."""

    model_config = SettingsConfigDict(env_prefix="EXPUNGE_", extra="ignore")

    data_dir: Path = Path("expunge-data")
    keys_dir: Path | None = None
    signing_key_file: Path | None = None
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)

    lease_seconds: float = Field(default=15.0, gt=0)
    """How long a claimed job may go without a sign of life before another worker may take it."""
    max_attempts: int = Field(default=3, ge=1)
    """Failures charged to a job before it is parked as failed."""
    max_claims: int = Field(default=50, ge=1)
    """Claims of one job before it is parked: a job that takes the whole process down charges no failure."""
    rollback_days: float = Field(default=3.0, ge=0)
    """How long a withdrawn version's weights stay sealed before their key is destroyed."""
    max_upload_bytes: int = Field(default=4 << 30, gt=0)
    max_rows: int = Field(default=5_000_000, gt=0)
    max_expansion: float = Field(default=400.0, gt=1)
    """Largest ratio of decoded to uploaded bytes: a small file must not become a large memory."""

    @property
    def keys_path(self) -> Path:
        return self.keys_dir or self.data_dir / "keys"

    @property
    def blobs_path(self) -> Path:
        return self.data_dir / "blobs"

    @property
    def signing_key_path(self) -> Path:
        return self.signing_key_file or self.keys_path / "signing.pem"

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.data_dir / 'expunge.sqlite3'}"

    @property
    def lease(self) -> timedelta:
        return timedelta(seconds=self.lease_seconds)

    @property
    def rollback(self) -> timedelta:
        return timedelta(days=self.rollback_days)
