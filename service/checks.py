"""Checks: what must be there for the service to work, each said in a sentence. Asked by `/readyz` and by `expunge doctor`."""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError

from service import ids, jobs, migrate, presence
from service.blobs import BlobError, StoreFull, Vault
from service.db import Database, moment, now
from service.settings import Settings

LOW_DISK = 100 << 20
"""Bytes below which a new version may not find room."""

SLOW_CLOCK = timedelta(seconds=2)
"""Leases are compared between machines: clocks further apart than this make a worker lose jobs that it holds."""

LONGEST = 5.0
"""Seconds for one check, whatever it waits for."""

PATIENCE = 2.0
"""Seconds for one answer of Redis."""


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    name: str
    wrong: str | None = None
    """A sentence without addresses, ids or secrets: anybody may ask for it. None: all is well."""
    advice: str = ""
    blocks: bool = True
    """While this is wrong nothing can be accepted; otherwise what is accepted waits."""
    found: str = ""


def database(db: Database) -> Finding:
    begun = time.perf_counter()
    try:
        with db.read() as session:
            session.execute(text("SELECT 1"))
            where = session.get_bind().dialect.name
    except SQLAlchemyError as error:
        advice = "See that PostgreSQL runs, and that EXPUNGE_DATABASE_URL names it with a user who may log in."
        return Finding("database", f"the database does not answer ({type(error).__name__})", advice)
    return Finding("database", found=f"{where}, {(time.perf_counter() - begun) * 1000:.1f} ms")


def migrations(db: Database) -> Finding:
    try:
        have, want = migrate.current(db.engine), migrate.newest()
    except SQLAlchemyError as error:
        return Finding("migrations", f"the database's schema cannot be read ({type(error).__name__})")
    if have != want:
        return Finding("migrations", f"the database has schema {have or 'none'}, this release needs {want}", "Run `expunge migrate`.")
    return Finding("migrations", found=f"schema {have}")


def blobs(vault: Vault) -> Finding:
    """Store a few bytes, read them, destroy them: the whole way that every blob goes."""
    probe, said = ids.new("up"), secrets.token_bytes(32)  # named like an upload: what a crash leaves of it is swept like one
    try:
        try:
            vault.put(probe, said)
            same = vault.read(probe) == said
        finally:
            vault.shred(probe)
    except StoreFull:
        return Finding("blobs", "there is no room left for blobs or their keys", "Free space, or set EXPUNGE_BLOBS to a larger place.")
    except (BlobError, OSError, SQLAlchemyError) as error:
        advice = "See that the place of EXPUNGE_BLOBS and the directory of keys exist and may be written."
        return Finding("blobs", f"a blob could not be written, read and destroyed ({type(error).__name__})", advice)
    return Finding("blobs", None if same else "a blob was read back changed", found="written, read, destroyed")


def room(settings: Settings) -> Finding:
    low = [name for name, place in (("data", settings.data_dir), ("keys", settings.keys_path))
           if place.exists() and shutil.disk_usage(place).free < LOW_DISK]  # fmt: skip
    if low:
        return Finding("disk", f"less than 100 MiB are free on the disk of: {', '.join(low)}", "Free space before a version needs it.")
    return Finding("disk", found="room enough")


def hints(settings: Settings) -> Finding:
    """Whether Redis answers. Without it nothing is lost: workers look by themselves, only later."""
    if not settings.distributed:
        return Finding("hints", found="within the process")
    import redis  # only the distributed form has it

    try:
        with redis.Redis.from_url(settings.redis_url, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE) as server:
            server.ping()
    except (redis.exceptions.RedisError, OSError, ValueError) as error:
        advice = "See that Redis runs, and that EXPUNGE_REDIS_URL names it. Jobs go on meanwhile, each a few seconds later."
        return Finding("hints", f"Redis does not answer ({type(error).__name__})", advice, blocks=False)
    return Finding("hints", found="Redis answers")


def workers(settings: Settings, db: Database) -> Finding:
    """Whether somebody is there for every queue that has work to do."""
    if not settings.distributed:
        return Finding("workers", found="within the process")
    try:
        with db.read() as session:
            instant = moment(session)
            present = presence.present(session, now=instant)
            waiting = [queue for queue, count in jobs.due(session, now=instant).items() if count]
    except SQLAlchemyError:
        return Finding("workers", "unknown while the database does not answer", blocks=False)
    alone = [queue for queue in waiting if queue not in present]
    if alone or not present:
        said = f"jobs of the queue {', '.join(alone)} wait and no worker takes them" if alone else "no worker gave a sign of life of late"
        commands = " and ".join(f"`expunge worker --queue {queue}`" for queue in alone or ["cpu"])
        return Finding("workers", said, f"Start {commands}. What was accepted waits for it.", blocks=False)
    return Finding("workers", found=", ".join(f"{count} for {queue}" for queue, count in sorted(present.items())))


def clock(db: Database) -> Finding:
    """Whether this machine and the database agree what time it is."""
    if db.engine.dialect.name == "sqlite":
        return Finding("clock", found="one machine")
    try:
        with db.read() as session:
            before = now()
            theirs = session.scalar(select(func.clock_timestamp()))
            after = now()
    except SQLAlchemyError:
        return Finding("clock", "unknown while the database does not answer", blocks=False)
    assert theirs is not None
    apart = max(before - theirs, theirs - after, timedelta(0))
    if apart > SLOW_CLOCK:
        said = f"this machine's clock is {apart.total_seconds():.1f} s from the database's"
        return Finding(
            "clock",
            said,
            "Run a time service (NTP) on both: leases go by the database's clock, but logs and names by each machine's own.",
            blocks=False,
        )
    return Finding("clock", found="agrees with the database's")


@dataclass(frozen=True)
class _Check:
    name: str
    kept: float
    """Seconds for which an answer stands."""
    asks_database: bool
    make: Callable[[], Finding]


class Readiness:
    """The checks that `/readyz` makes, each kept for a moment: probes ask often, anybody may ask, and some checks write."""

    def __init__(self, settings: Settings, db: Database, vault: Vault) -> None:
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[float, Finding]] = {}
        self._asking: dict[str, _Asking] = {}
        self._checks: Sequence[_Check] = (
            _Check("database", 0.5, False, lambda: database(db)),
            _Check("migrations", 5.0, True, lambda: migrations(db)),
            _Check("blobs", 5.0, settings.blobs_place.startswith("postgres:"), lambda: blobs(vault)),
            _Check("disk", 5.0, False, lambda: room(settings)),
            _Check("hints", 1.0, False, lambda: hints(settings)),
            _Check("workers", 1.0, True, lambda: workers(settings, db)),
            _Check("clock", 60.0, True, lambda: clock(db)),
        )

    def findings(self) -> list[Finding]:
        with self._lock:
            found: list[Finding] = []
            for check in self._checks:
                # A server that says nothing costs seconds a question: the first that asks in vain asks for all.
                away = check.asks_database and found[0].wrong
                found.append(Finding(check.name, "unknown while the database does not answer") if away else self._made(check))
            return found

    def _made(self, check: _Check) -> Finding:
        at, known = self._kept.get(check.name, (float("-inf"), None))
        # What is wrong is looked at again soon: the first question after it is mended should say so.
        if known is None or time.monotonic() - at > (min(check.kept, 1.0) if known.wrong else check.kept):
            known = self._answer(check)
            self._kept[check.name] = time.monotonic(), known
        return known

    def _answer(self, check: _Check) -> Finding:
        asking = self._asking.pop(check.name, None) or _Asking(check.make)
        found = asking.found(LONGEST)
        if found is None:
            self._asking[check.name] = asking  # one question at a time, however often it is put
            return Finding(check.name, f"no answer within {LONGEST:.0f} s")
        return found


class _Asking:
    """One check under way in a thread of its own: a frozen PostgreSQL keeps its connections alive and answers nothing, for ever."""

    def __init__(self, make: Callable[[], Finding]) -> None:
        self._make = make
        self._found: list[Finding] = []
        self._thread = threading.Thread(target=self._run, daemon=True, name="readiness")
        self._thread.start()

    def _run(self) -> None:
        try:
            self._found.append(self._make())
        except Exception as error:  # the thread's boundary: whoever asks must be told all the same
            self._found.append(Finding("check", f"a check failed ({type(error).__name__})"))

    def found(self, timeout: float) -> Finding | None:
        self._thread.join(timeout)
        return self._found[0] if self._found else None
