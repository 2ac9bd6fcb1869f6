"""Home: everything one service process holds on to, opened once: database, vault, signing key, secret."""

from __future__ import annotations

import fcntl
import os
import secrets
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from service import migrate
from service.ahead import SEVERAL, Ahead
from service.auth import Callers
from service.blobs import Vault, open_vault
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
    ahead: Ahead
    signer: Signer
    secret: bytes
    """Keys the tombstones and the idempotency tags. Kept beside the blobs' keys, outside the database."""
    lock: IO[str] | None
    """Held on the data directory by the one process of an embedded service; distributed, PostgreSQL decides who may do what."""
    wake: threading.Event = field(default_factory=threading.Event)
    """Set after a commit that gives the dispatcher something to do."""
    erasing: threading.Lock = field(default_factory=threading.Lock)
    """One thread destroys blobs at a time."""
    callers: Callers = field(default_factory=Callers)

    def close(self) -> None:
        self.db.close()
        if self.lock is not None:
            self.lock.close()


def open_home(settings: Settings) -> Home:
    """Open what the settings name; an embedded service makes it on the way, a distributed one wants it migrated.

    Raises:
        DataDirectoryInUse: embedded, and somebody else has it open.
        SchemaBehind: distributed, and `expunge migrate` has not been run.
    """
    settings.keys_path.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = None
    if not settings.distributed:
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = _lock(settings.data_dir)
        migrate.upgrade(settings.records_url)
    database = Database(settings.records_url)
    if settings.distributed:
        migrate.require_newest(database.engine)
    vault = vault_of(settings)
    return Home(
        settings,
        database,
        vault,
        Ahead(vault, SEVERAL if settings.distributed else 0),  # embedded, a disk of its own is waited for either way
        load_signer(settings.signing_key_path),
        _secret(settings.keys_path / "service.key"),
        lock,
    )


def vault_of(settings: Settings) -> Vault:
    return open_vault(
        settings.blobs_place, settings.keys_path / "blobs", data_dir=settings.data_dir, database_url=settings.database_url or None
    )


def _lock(data_dir: Path) -> IO[str]:
    lock = (data_dir / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise DataDirectoryInUse(f"another service uses {data_dir}; stop it or set EXPUNGE_DATA_DIR") from None
    return lock


def _secret(path: Path) -> bytes:
    """The secret kept at `path`, made once: of processes that start together one makes it, and all read the same."""
    if not path.exists():
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=".service-")  # 0600 from the start
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(32))
                file.flush()
                os.fsync(file.fileno())
            os.link(part, path)  # refuses to replace one that appeared meanwhile
        except FileExistsError:
            pass
        finally:
            os.unlink(part)
    return path.read_bytes()
