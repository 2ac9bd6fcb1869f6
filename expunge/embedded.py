"""A service of one's own: `expunge serve` as a child process on a free loopback port, ended in every case."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 10.0
"""Seconds that a service may take to end by itself before it is killed."""


class DidNotStart(Exception):
    """The child ended before it listened. The message ends with its last words."""


@dataclass(frozen=True)
class Running:
    """A service that listens."""

    url: str
    key: str
    """The first API key, with every scope."""
    pid: int


@contextmanager
def service(data_dir: Path, *, port: int = 0) -> Iterator[Running]:
    """Run a service on `data_dir` within the block.

    It ends with the block; and, should this process be killed, as soon as its standard input closes.

    Args:
        data_dir: made if missing; its log is written to `service.log` beside the data, the first API key to `key.txt`.
        port: 0 takes a free one.

    Raises:
        DidNotStart.
    """
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    key_file, log = data_dir / "key.txt", data_dir / "service.log"
    command = [sys.executable, "-m", "expunge.cli", "serve", "--port", str(port), "--data-dir", str(data_dir), "--key-file", str(key_file),
               "--until-stdin-closes"]
    # A folder `models` in the current directory must not be taken for the package.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("EXPUNGE_")} | {"PYTHONSAFEPATH": "1"}
    # Its own session: Ctrl-C reaches this process alone, which then ends the child in order.
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,  # noqa: S603
                             errors="replace", env=environment, start_new_session=True)
    logging = threading.Thread(target=_keep_log, args=(child, log), daemon=True)
    logging.start()
    try:
        yield Running(_address(child, logging, log), key_file.read_text().strip(), child.pid)
    finally:
        _end(child, logging)


def _keep_log(child: subprocess.Popen[str], log: Path) -> None:
    """Write down what the service says, until nobody is left who could say anything: its own worker process has the same pipe."""
    assert child.stderr is not None
    with log.open("a") as file:
        for line in child.stderr:
            file.write(line)
            file.flush()


def _address(child: subprocess.Popen[str], logging: threading.Thread, log: Path) -> str:
    assert child.stdout is not None
    for line in child.stdout:
        if "listening on " in line:
            return line.split()[-1]
    logging.join(PATIENCE)
    last = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
    raise DidNotStart(f"The service ended before it listened (exit code {child.wait()}). Its last words:\n{last}")


def _end(child: subprocess.Popen[str], logging: threading.Thread) -> None:
    child.terminate()
    try:
        child.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    # The worker process ends a moment after the service; until then it may still write where the caller is about to clean up.
    logging.join(PATIENCE)
    for pipe in (child.stdin, child.stdout):
        assert pipe is not None
        pipe.close()
