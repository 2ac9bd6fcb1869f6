"""`expunge doctor`: looks at settings, directories and servers as the service would, and says what to mend. It changes nothing."""

from __future__ import annotations

import importlib.metadata
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from service import checks
from service.blobs import NoSuchStore
from service.blobs.keys import KeysExposed
from service.checks import Finding
from service.db import Database
from service.home import vault_of
from service.settings import Settings

PARTS = {
    "api": ("fastapi", "uvicorn", "sqlalchemy", "alembic", "pyarrow"),
    "worker": ("torch", "numpy", "scipy", "scikit-learn", "safetensors"),
}
SERVERS = ("psycopg", "redis", "celery")


@dataclass(frozen=True)
class Diagnosis:
    """All that was looked at, in the order in which one thing needs another."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return not any(finding.wrong for finding in self.findings)

    def document(self) -> dict[str, object]:
        told = [
            {"name": f.name, "ok": not f.wrong, "said": f.wrong or f.found, "advice": f.advice if f.wrong else ""} for f in self.findings
        ]
        return {"ok": self.ok, "checks": told}


def examine(settings: Settings, *, url: str | None) -> Diagnosis:
    """Make every check that can be made from here.

    Args:
        url: where the service should answer; None: where the settings say that it listens.
    """
    return Diagnosis(tuple(_findings(settings, url)))


def _findings(settings: Settings, url: str | None) -> Iterator[Finding]:
    yield Finding("form", found="distributed" if settings.distributed else "embedded")
    yield _packages(settings)
    yield _keys(settings)
    yield _signing_key(settings)
    sqlite = settings.records_url.partition("sqlite:///")[2]
    if sqlite and not Path(sqlite).exists():  # opening it would make it
        yield Finding("records", found="none yet: `expunge serve` makes them")
    else:
        yield from _records(settings)
    yield checks.hints(settings)
    yield _answer(url or f"http://{settings.host}:{settings.port}")


def _records(settings: Settings) -> Iterator[Finding]:
    db = Database(settings.records_url)
    try:
        answers = checks.database(db)
        yield answers
        if answers.wrong:
            return
        schema = checks.migrations(db)
        yield schema
        yield checks.clock(db)
        yield checks.room(settings)
        if schema.wrong:
            return
        yield checks.workers(settings, db)
        if settings.keys_path.exists():
            yield _blobs(settings)
    finally:
        db.close()


def _blobs(settings: Settings) -> Finding:
    try:
        vault = vault_of(settings)
    except (NoSuchStore, KeysExposed, OSError) as error:
        return Finding("blobs", str(error), "See EXPUNGE_BLOBS and EXPUNGE_KEYS_DIR.")
    return checks.blobs(vault)


def _packages(settings: Settings) -> Finding:
    missing = {part: [name for name in names if not _version(name)] for part, names in PARTS.items()}
    if missing["api"]:
        return Finding("packages", f"missing: {', '.join(missing['api'])}", "pip install 'expunge[service,worker]'")
    absent = [name for name in SERVERS if settings.distributed and not _version(name)]
    if absent:
        return Finding("packages", f"missing for PostgreSQL and Redis: {', '.join(absent)}", "pip install 'expunge[service]'")
    worker = f"torch {_version('torch')}" if not missing["worker"] else "no worker can run here (pip install 'expunge[worker]')"
    return Finding("packages", found=f"fastapi {_version('fastapi')}, {worker}")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _keys(settings: Settings) -> Finding:
    directory = settings.keys_path
    if not directory.exists():
        return Finding("keys", found="none yet: the first start makes them")
    wide = _mode(directory) & 0o077
    if wide:
        return Finding("keys", "others than the owner may enter the directory of keys", f"chmod 700 {directory}")
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        return Finding("keys", "this user may not read and write the directory of keys", f"Run as the owner of {directory}.")
    return Finding("keys", found="for their owner alone")


def _signing_key(settings: Settings) -> Finding:
    path = settings.signing_key_path
    if not path.exists():
        return Finding("signing key", found="none yet: the first start makes it")
    if _mode(path) & 0o077:
        return Finding("signing key", "others than the owner may read the signing key", f"chmod 600 {path}; consider it known to them.")
    try:
        load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, OSError) as error:
        return Finding("signing key", f"it cannot be read ({type(error).__name__})", "Restore its backup: a new key is a new issuer.")
    return Finding("signing key", found="readable by its owner alone")


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _answer(url: str) -> Finding:
    """What the running service says of itself. One that does not run is no fault: it may run elsewhere, or not yet."""
    try:
        answer = httpx.get(f"{url.rstrip('/')}/readyz", timeout=10)
        body = answer.json()
        wrong = "; ".join(str(said) for said in body["wrong"])
    except (httpx.HTTPError, httpx.InvalidURL):
        return Finding("service", found="none answers here (start it, or set EXPUNGE_URL)")
    except (ValueError, KeyError, TypeError):
        return Finding("service", "something else than expunge answers at its address", "Choose another EXPUNGE_PORT, or set EXPUNGE_URL.")
    if wrong:
        return Finding("service", f"the running service says: {wrong}", "It may see what is not visible from here: look at its machine.")
    return Finding("service", found="answers, and is ready")
