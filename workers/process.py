"""The child's process as the runner sees it: started once, kept warm, spoken to in JSON lines, killed when in doubt."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from typing import Any

from service.settings import Settings


class ChildDied(Exception):
    """The child's pipe closed: it crashed, was killed, or ran out of memory."""


class Child:
    """One warm process. Lives longer than a job, shorter than the runner: a cancelled job takes it along."""

    def __init__(self, settings: Settings) -> None:
        # By the environment and not by arguments: those of a process can be read by every user of the machine.
        environment = dict(os.environ) | {
            "PYTHONHASHSEED": "0",
            "EXPUNGE_DATA_DIR": str(settings.data_dir),
            "EXPUNGE_KEYS_DIR": str(settings.keys_path),
            "EXPUNGE_BLOBS": settings.blobs_place,
            "EXPUNGE_DATABASE_URL": settings.database_url,
            "EXPUNGE_REDIS_URL": settings.redis_url,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "workers.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.hardware: dict[str, Any] = {}

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ready(self, timeout: float) -> bool:
        """Whether torch is imported; waits for it at most `timeout` seconds.

        Raises:
            ChildDied: it could not be.
        """
        if not self.hardware:
            message = self.receive(timeout)
            self.hardware = message["ready"] if message else {}
        return bool(self.hardware)

    def send(self, plan: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(plan) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise ChildDied from error

    def receive(self, timeout: float) -> dict[str, Any] | None:
        """The next message, or None when none came in time.

        Raises:
            ChildDied: none will come any more.
        """
        try:
            message = self._lines.get(timeout=timeout)
        except queue.Empty:
            return None
        if message is None:
            raise ChildDied
        return None if "nudge" in message else message

    def nudge(self) -> None:
        """End a wait for the child's next message, as if the time were over."""
        self._lines.put({"nudge": True})

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(json.loads(line))
        self._lines.put(None)
