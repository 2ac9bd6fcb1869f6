"""PostgreSQL and Redis for `make up`: those of this machine if they answer, else private ones that keep their data."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import redis

from deploy.tether import tether
from tests.servers import Server, free_port, postgres_bin, unprivileged


class NoServer(Exception):
    """Neither does one answer nor can one be started. The message says what to install or change."""


@dataclass(frozen=True)
class Place:
    """Where a server answers, and its process if it is ours."""

    address: str
    """host:port"""
    own: Server | None


def postgres(state: Path, password: str, *, private: bool) -> Place:
    """Role and database `expunge`, on the standard port or on one of our own."""
    standard = "127.0.0.1:5432"
    if not private and _postgres_answers(standard, password):
        return Place(standard, None)
    found = postgres_bin()
    if found is None:
        raise NoServer("PostgreSQL does not answer on 127.0.0.1:5432 for the role expunge, and is not installed (initdb, postgres)")
    directory, who = _directory(state / "postgres"), unprivileged()
    data, address = directory / "data", f"127.0.0.1:{free_port()}"
    if not data.exists():
        _initialise(found, directory, password)
    options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "log_min_messages": "warning"}
    command = [str(found / "postgres"), "-D", str(data), "-p", address.partition(":")[2]]
    command += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    port = int(address.partition(":")[2])
    server = Server("", port, directory, command, _tethered(who), lambda: _postgres_answers(address, password, "postgres"))
    _start(server)
    with psycopg.connect(_conninfo(address, password, "postgres"), autocommit=True) as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = 'expunge'").fetchone():
            connection.execute("CREATE DATABASE expunge")
    return Place(address, server)


def hints(state: Path, command: tuple[str, ...], *, private: bool) -> Place:
    """Redis as the compose file starts it, on the standard port or on one of our own."""
    standard = "127.0.0.1:6379"
    if not private and _redis_answers(standard):
        return Place(standard, None)
    program = shutil.which("redis-server")
    if program is None:
        raise NoServer("Redis does not answer on 127.0.0.1:6379, and is not installed (redis-server)")
    directory, address = _directory(state / "redis"), f"127.0.0.1:{free_port()}"
    port = address.partition(":")[2]
    started = [program, *command[1:], "--bind", "127.0.0.1", "--port", port, "--dir", str(directory)]
    server = Server("", int(port), directory, started, _tethered(unprivileged()), lambda: _redis_answers(address))
    _start(server)
    return Place(address, server)


def _tethered(who: dict[str, Any]) -> dict[str, Any]:
    return who | {"preexec_fn": tether()}


def _start(server: Server) -> None:
    try:
        server.start()
    except RuntimeError as error:
        raise NoServer(str(error)) from None


def _initialise(found: Path, directory: Path, password: str) -> None:
    secret = directory / "password"
    secret.touch(mode=0o600)
    secret.write_text(password)
    who = unprivileged()
    if who:
        os.chown(secret, who["user"], who["group"])
    making = [str(found / "initdb"), "-D", str(directory / "data"), "-U", "expunge", "-A", "scram-sha-256", "--pwfile", str(secret)]
    making += ["-E", "UTF8", "--locale=C", "--data-checksums"]
    made = subprocess.run(making, cwd=directory, capture_output=True, text=True, check=False, **who)  # noqa: S603  found by its own tools
    secret.unlink()
    if made.returncode:
        shutil.rmtree(directory / "data", ignore_errors=True)
        last = (made.stderr.strip() or made.stdout.strip()).splitlines()[-1:]
        raise NoServer(f"PostgreSQL could not set itself up in {directory} ({' '.join(last)}); choose another --state")


def _directory(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    who = unprivileged()
    if who:
        os.chown(path, who["user"], who["group"])
        # PostgreSQL refuses to run as root: its own user must be able to reach its data.
        reached = subprocess.run(["test", "-w", str(path)], check=False, **who)  # noqa: S603, S607
        if reached.returncode:
            raise NoServer(f"the user of PostgreSQL cannot reach {path}; choose a --state that it can, for instance below /var/tmp")
    return path


def _conninfo(address: str, password: str, database: str) -> str:
    host, _, port = address.partition(":")
    return psycopg.conninfo.make_conninfo(host=host, port=port, user="expunge", password=password, dbname=database, connect_timeout=2)


def _postgres_answers(address: str, password: str, database: str = "expunge") -> bool:
    try:
        psycopg.connect(_conninfo(address, password, database)).close()
    except psycopg.OperationalError:
        return False
    return True


def _redis_answers(address: str) -> bool:
    host, _, port = address.partition(":")
    try:
        with redis.Redis(host, int(port), socket_timeout=2, socket_connect_timeout=2) as server:
            return bool(server.ping())
    except redis.exceptions.RedisError:
        return False
