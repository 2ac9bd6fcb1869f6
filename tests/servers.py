"""Private PostgreSQL and Redis servers on free loopback ports, run as an unprivileged user: tests may stop, kill and break them."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil
import psycopg
import redis

Stop = Literal["smart", "fast", "immediate"]
_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
PATIENCE = 30.0
"""Seconds that a server may take to start or stop."""


@dataclass
class Server:
    """One server process on one port; keeps its port and its data over stops, kills and starts."""

    url: str
    port: int
    directory: Path
    _command: list[str]
    _as: dict[str, Any]
    _answers: Callable[[], bool]
    process: subprocess.Popen[bytes] | None = field(default=None)

    def start(self) -> None:
        """Start it and wait until it answers."""
        assert self.process is None or self.process.poll() is not None, "it runs already"
        with (self.directory / "server.log").open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, cwd=self.directory, start_new_session=True, **self._as)
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start: {(self.directory / 'server.log').read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)

    def stop(self, mode: Stop = "fast") -> None:
        """Stop it: `immediate` is a crash of PostgreSQL without the operating system's; Redis knows one way only."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(_SIGNALS[mode])
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """kill -9 of the server and of every process of its own."""
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGKILL)
            self.process.wait()

    def signal(self, number: int) -> None:
        """Send a signal to the whole server, SIGSTOP and SIGCONT for instance."""
        assert self.process is not None
        # PostgreSQL's processes each lead a session of their own: a process group would reach the first alone.
        first = psutil.Process(self.process.pid)
        for process in (first, *first.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)


def postgres_bin() -> Path | None:
    """The directory of `initdb` and `postgres`, or None where PostgreSQL is not installed."""
    candidates = [Path(found).parent for found in (shutil.which("initdb"),) if found]
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if shutil.which("pg_config"):
        told = subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True, check=False).stdout.strip()
        candidates.insert(0, Path(told))
    return next((c for c in candidates if (c / "initdb").exists() and (c / "postgres").exists()), None)


def no_servers() -> str | None:
    """Why tests of the distributed form cannot run here, or None if they can."""
    if postgres_bin() is None:
        return "PostgreSQL (initdb, postgres) is not installed"
    return None if shutil.which("redis-server") else "redis-server is not installed"


@contextmanager
def private_postgres(tmp: Path | None = None, **settings: str) -> Iterator[Server]:
    """A PostgreSQL of one's own with the superuser `expunge` (trust, loopback alone) and the database `expunge`.

    Args:
        tmp: a directory in which a new one is made for it; the system's when None. PostgreSQL's user must be able to reach it.
        settings: lines of postgresql.conf, for instance `fsync="on"` (off here: only a crash of the machine would notice).
    """
    found = postgres_bin()
    assert found is not None
    who = unprivileged()
    with _directory(tmp, who) as directory:
        data, port = directory / "data", free_port()
        making = [str(found / "initdb"), "-D", str(data), "-U", "expunge", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        made = subprocess.run(making, capture_output=True, text=True, cwd=directory, check=False, **who)
        assert made.returncode == 0, made.stderr
        chosen = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off", "max_connections": "300",
                  "shared_buffers": "64MB", "log_min_messages": "warning"} | settings  # fmt: skip
        options = [part for name, value in chosen.items() for part in ("-c", f"{name}={value}")]
        command = [str(found / "postgres"), "-D", str(data), "-p", str(port), *options]

        def answers() -> bool:
            try:
                psycopg.connect(f"host=127.0.0.1 port={port} user=expunge dbname=postgres connect_timeout=2").close()
            except psycopg.OperationalError:
                return False
            return True

        server = Server(f"postgresql+psycopg://expunge@127.0.0.1:{port}/expunge", port, directory, command, who, answers)
        try:
            server.start()
            _create(server, "expunge")
            yield server
        finally:
            server.stop("immediate")


@contextmanager
def fresh_database(server: Server) -> Iterator[str]:
    """The address of a new empty database on a running server; dropped afterwards."""
    name = f"t{uuid.uuid4().hex[:16]}"
    _create(server, name)
    try:
        yield f"{server.url.rpartition('/')[0]}/{name}"
    finally:
        with suppress(psycopg.OperationalError):
            _administer(server, f'DROP DATABASE "{name}" WITH (FORCE)')


@contextmanager
def private_redis(tmp: Path | None = None) -> Iterator[Server]:
    """A Redis of one's own that forgets everything when it stops: hints are all that it ever holds."""
    program = shutil.which("redis-server")
    assert program is not None
    who = unprivileged()
    with _directory(tmp, who) as directory:
        port = free_port()
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(directory)]

        def answers() -> bool:
            try:
                return bool(redis.Redis(port=port, socket_timeout=2).ping())
            except redis.exceptions.RedisError:
                return False

        server = Server(f"redis://127.0.0.1:{port}/0", port, directory, command, who, answers)
        try:
            server.start()
            yield server
        finally:
            server.kill()


def _create(server: Server, database: str) -> None:
    _administer(server, f'CREATE DATABASE "{database}"')


def _administer(server: Server, statement: str) -> None:
    with psycopg.connect(f"host=127.0.0.1 port={server.port} user=expunge dbname=postgres", autocommit=True) as connection:
        connection.execute(statement.encode())


def unprivileged() -> dict[str, Any]:
    """How to start a process as nobody in particular: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = known.get("postgres") or known["nobody"]
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


@contextmanager
def _directory(tmp: Path | None, who: dict[str, Any]) -> Iterator[Path]:
    """A short-lived directory that belongs to the server's user: pytest's own are closed to everybody else."""
    with tempfile.TemporaryDirectory(prefix="expunge-server-", dir=tmp, ignore_cleanup_errors=True) as name:
        directory = Path(name)
        if who:
            os.chown(directory, who["user"], who["group"])
        yield directory


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
