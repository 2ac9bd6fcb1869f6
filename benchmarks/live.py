"""A live service in processes of its own, embedded or over servers of its own, spoken to over HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.data import DataMissing
from service import migrate
from tests.servers import Server, no_servers, private_postgres, private_redis

FINAL = ("done", "failed", "refused", "cancelled")

_SERVE = """
import sys
from expunge.serve import serve
from service.settings import Settings

def announce(line):
    sys.stdout.write(line + chr(10))
    sys.stdout.flush()

serve(Settings(), key_file=None, announce=announce)
"""


class Unexpected(Exception):
    """The service answered something else than this benchmark can work with."""


@contextmanager
def service(folder: Path) -> Iterator[httpx.Client]:
    """Run the service within the block, on a free port of the loopback; its log goes to a file beside its data."""
    environment = dict(os.environ) | {"EXPUNGE_DATA_DIR": str(folder / "data"), "EXPUNGE_PORT": "0"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-c", _SERVE], env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert process.stdout is not None
            address, key = process.stdout.readline().split(), process.stdout.readline().split()
            if not address or not key:
                raise Unexpected(f"the service did not start: {(folder / 'log').read_text()[-500:]}")
            with httpx.Client(base_url=address[-1], headers={"Authorization": f"Bearer {key[-1]}"}, timeout=120) as client:
                yield client
        finally:
            process.terminate()
            process.wait(timeout=60)


@dataclass(frozen=True)
class Servers:
    """The distributed form on servers of its own, without a worker."""

    environment: dict[str, str]
    postgres: Server
    address: str
    token: str
    client: httpx.Client


@contextmanager
def distributed(**settings: str) -> Iterator[Servers]:
    """Run PostgreSQL, which flushes what it commits to the disk, Redis and one API process within the block.

    Args:
        settings: further variables of the environment.

    Raises:
        DataMissing: a server is not installed.
    """
    if missing := no_servers():
        raise DataMissing(missing)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="expunge-bench-")))
        postgres, redis = stack.enter_context(private_postgres(fsync="on")), stack.enter_context(private_redis())
        migrate.upgrade(postgres.url)
        environment = dict(os.environ) | {"EXPUNGE_DATA_DIR": str(folder), "EXPUNGE_DATABASE_URL": postgres.url,
                                          "EXPUNGE_REDIS_URL": redis.url, "EXPUNGE_PORT": "0"} | settings  # fmt: skip
        serve = [sys.executable, "-m", "expunge.cli", "serve", "--key-file", str(folder / "key")]
        address = stack.enter_context(listening(serve, environment))
        token = (folder / "key").read_text().strip()
        client = stack.enter_context(httpx.Client(base_url=address, headers={"Authorization": f"Bearer {token}"}, timeout=600))
        yield Servers(environment, postgres, address, token, client)


@contextmanager
def listening(command: list[str], environment: dict[str, str]) -> Iterator[str]:
    """Run a server within the block. Yields its address."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def worker(environment: dict[str, str]) -> Iterator[None]:
    command = [sys.executable, "-m", "expunge.cli", "worker"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def accepted(response: httpx.Response) -> str:
    """Return the address of the job that a request was accepted with.

    Raises:
        Unexpected: it was not.
    """
    if response.status_code != 202:
        raise Unexpected(f"{response.request.method} {response.request.url.path} gave {response.status_code}: {response.text[:300]}")
    return response.headers["location"]


def ended(client: httpx.Client, job: str) -> dict[str, Any]:
    """Wait for a job's end.

    Raises:
        Unexpected: it did not end well.
    """
    while True:
        found: dict[str, Any] = client.get(job, params={"wait": 30}).json()
        if found["state"] in FINAL:
            break
    if found["state"] != "done":
        raise Unexpected(f"{job} ended {found['state']}: {found['error']}")
    return found
