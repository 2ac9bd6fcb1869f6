"""A real service process on a loopback port of its own, and a client that talks to it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from service import migrate

_CODE = """
import sys
from pathlib import Path
from expunge.serve import serve
from service.settings import Settings
serve(Settings(), key_file=Path(sys.argv[1]), announce=lambda line: print(line, flush=True))
"""


class Live:
    """Starts and ends one service; may be killed and started again on the same data."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self.directory, self.settings = directory, settings
        self.process: subprocess.Popen[str] | None = None
        self.client = httpx.Client()
        self.start()

    @property
    def environment(self) -> dict[str, str]:
        names = {f"EXPUNGE_{name.upper()}": value for name, value in self.settings.items()}
        return dict(os.environ) | {"EXPUNGE_DATA_DIR": str(self.directory / "data"), "EXPUNGE_PORT": "0", "OMP_NUM_THREADS": "1"} | names

    def start(self) -> None:
        with (self.directory / "service.log").open("a") as log:
            self.process = subprocess.Popen([sys.executable, "-c", _CODE, str(self.directory / "key")], env=self.environment, text=True,
                                            stdout=subprocess.PIPE, stderr=log)  # fmt: skip
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], 60)
        line = self.process.stdout.readline() if ready else ""
        assert line.startswith("listening on "), (self.directory / "service.log").read_text()[-2000:]
        token = (self.directory / "key").read_text().strip()
        self.client = httpx.Client(base_url=line.split()[-1], headers={"Authorization": f"Bearer {token}"}, timeout=90)

    def kill(self) -> None:
        """kill -9: nothing can be said or saved any more."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
        self.client.close()

    @property
    def log(self) -> str:
        return (self.directory / "service.log").read_text()

    # What tests do all the time ---------------------------------------------------------------------------------------

    def job(self, answer: httpx.Response, *, state: str = "done") -> dict[str, Any]:
        """Wait for the job that an answer names, and require how it ends."""
        assert answer.status_code == 202, answer.text
        job = self.end_of(answer.headers["Location"])
        assert job["state"] == state, job
        return job

    def end_of(self, location: str) -> dict[str, Any]:
        for _ in range(20):
            job: dict[str, Any] = self.client.get(location, params={"wait": 30}).raise_for_status().json()
            if job["state"] not in ("queued", "running"):
                return job
        raise AssertionError("the job did not end in 10 minutes")

    def upload(self, name: str, data: bytes) -> dict[str, Any]:
        return self.job(self.client.post("/datasets", params={"name": name}, content=data))

    def fit(self, name: str, dataset: str, **more: Any) -> dict[str, Any]:
        body = {"name": name, "dataset": dataset, "architecture": {"name": "convnet"}, "training": {"epochs": 5}, "expected_rows": 1000}
        return self.job(self.client.post("/models", json=body | more))

    def forget(self, model: str, **what: Any) -> httpx.Response:
        top = {k: what.pop(k) for k in ("method", "guarantee", "options", "audits", "reason", "reference") if k in what}
        return self.client.post("/forget", json={"model": model, "forget": {"kind": "samples"} | what} | top)

    def version(self, model: str, name: str = "@latest-certified") -> dict[str, Any]:
        found: dict[str, Any] = self.client.get(f"/models/{model}/versions/{name}").raise_for_status().json()
        return found

    def sha256(self, model: str, file: str = "user.safetensors", version: str = "@latest-certified") -> str:
        return next(f["sha256"] for f in self.version(model, version)["files"] if f["name"] == file)

    def request(
        self, request_id: str, *, until: tuple[str, ...] = ("fulfilled", "partial", "refused", "failed", "cancelled")
    ) -> dict[str, Any]:
        """A request once it has ended: a moment after its version is published, when the old rows' keys are gone."""
        latest = time.monotonic() + 120
        while (found := self.client.get(f"/forget/{request_id}").raise_for_status().json())["state"] not in until:
            assert time.monotonic() < latest, f"request is still {found['state']}"
            time.sleep(0.05)
        return dict(found)


class Cluster(Live):
    """The distributed form: one API process, as many workers as asked for, over servers that are there already."""

    def __init__(self, directory: Path, *, database_url: str, redis_url: str, workers: int = 1, **settings: str) -> None:
        self.workers: list[subprocess.Popen[bytes]] = []
        self._wanted = workers
        migrate.upgrade(database_url)
        super().__init__(directory, database_url=database_url, redis_url=redis_url, keys_dir=str(directory / "keys"), **settings)

    def start(self) -> None:
        super().start()
        while len(self.workers) < self._wanted:
            self.start_worker()

    def start_worker(self, queue: str = "cpu") -> subprocess.Popen[bytes]:
        """One more worker; its log goes where the service's does."""
        with (self.directory / "service.log").open("a") as log:
            command = [sys.executable, "-m", "expunge.cli", "worker", "--queue", queue]
            worker = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        self.workers.append(worker)
        return worker

    def stop(self) -> None:
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            try:
                worker.wait(20)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        super().stop()
