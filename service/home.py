"""Home: everything one service holds on to, opened once: database, vault, signing key, secret, and the lock on the data directory."""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from service import migrate
from service.blobs import Vault, directory_vault
from service.certificates import Signer, load_signer
from service.db import Database
from service.settings import Settings


class DataDirectoryInUse(Exception):
    """Another service runs on this data directory."""


@dataclass(frozen=True)
class Home:
    settings: Settings
    db: Database
    vault: Vault
    signer: Signer
    secret: bytes
    """Keys the tombstones and the idempotency tags. Kept beside the blobs' keys, outside the database."""
    lock: IO[str]
    wake: threading.Event = field(default_factory=threading.Event)
    """Set after a commit that gives the dispatcher something to do."""
    erasing: threading.Lock = field(default_factory=threading.Lock)
    """One thread destroys blobs at a time."""

    def close(self) -> None:
        self.db.close()
        self.lock.close()


def open_home(settings: Settings) -> Home:
    """Open or create the data directory of an embedded service.

    Raises:
        DataDirectoryInUse: somebody else has it open.
    """
    for directory in (settings.data_dir, settings.keys_path):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = (settings.data_dir / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise DataDirectoryInUse(f"another service uses {settings.data_dir}; stop it or set EXPUNGE_DATA_DIR") from None
    migrate.upgrade(settings.database_url)
    return Home(
        settings,
        Database(settings.database_url),
        directory_vault(settings.blobs_path, settings.keys_path / "blobs"),
        load_signer(settings.signing_key_path),
        _secret(settings.keys_path / "service.key"),
        lock,
    )


def _secret(path: Path) -> bytes:
    if not path.exists():
        part = path.with_suffix(".part")
        with open(os.open(part, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    return path.read_bytes()
