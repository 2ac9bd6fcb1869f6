"""A live embedded service in a process of its own, on a data directory of its own, spoken to over HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

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
