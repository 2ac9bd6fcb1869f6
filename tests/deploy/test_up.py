"""`make up`: the compose file's steps, taken for real on this machine with private servers."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from deploy import compose
from expunge.client import Client
from tests.servers import free_port, no_servers

ROOT = Path(__file__).parents[2]
SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


@dataclass
class Up:
    """One run of `make up`."""

    process: subprocess.Popen[str]
    state: Path
    port: int
    said: list[str] = field(default_factory=list)
    lines: queue.Queue[str] = field(default_factory=queue.Queue)

    def __post_init__(self) -> None:
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line)

    def until(self, what: str, *, within: float = 120) -> None:
        """Wait for a line that holds `what`."""
        deadline = time.monotonic() + within
        while time.monotonic() < deadline and (self.process.poll() is None or not self.lines.empty()):
            with suppress(queue.Empty):
                self.said.append(self.lines.get(timeout=0.5))
                if what in self.said[-1]:
                    return
        raise AssertionError(f"it never said {what!r}: {''.join(self.said)}\n{self.logs}")

    def end(self) -> str:
        """Ctrl-C; all that it said."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)
        time.sleep(0.2)
        while not self.lines.empty():
            self.said.append(self.lines.get())
        return "".join(self.said)

    def pid(self, name: str) -> int:
        return int(re.findall(rf"^{name}: started \(pid (\d+)\)", "".join(self.said), re.MULTILINE)[-1])

    @property
    def logs(self) -> str:
        return "\n".join(f"{path.name}:\n{path.read_text()[-1500:]}" for path in sorted(self.state.glob("*.log")))

    def key(self) -> str:
        return (self.state / "keys" / "first-key.txt").read_text().strip()


@pytest.fixture(scope="module")
def state() -> Iterator[Path]:
    missing = no_servers()
    if missing:
        pytest.skip(missing)
    # Not below pytest's own directory, which is closed: PostgreSQL's user must be able to pass.
    with tempfile.TemporaryDirectory(prefix="expunge-up-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)
        yield Path(name) / "state"


@contextmanager
def started(state: Path) -> Iterator[Up]:
    port = free_port()
    own = {name: value for name, value in os.environ.items() if not name.startswith(("EXPUNGE_", "COMPOSE_", "POSTGRES_"))}
    command = [sys.executable, "-m", "deploy.up", "--private", "--state", str(state), "--env-file", str(state.parent / "env")]
    process = subprocess.Popen(command, cwd=ROOT, env=own | {"EXPUNGE_PORT": str(port), "OMP_NUM_THREADS": "1"}, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip
    up = Up(process, state, port)
    try:
        yield up
    finally:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []
        if process.poll() is None:
            process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_the_steps_of_the_compose_file_give_a_service_that_works_survives_and_ends(state: Path, upload: bytes, tmp_path: Path) -> None:
    (tmp_path / "digits.parquet").write_bytes(upload)
    with started(state) as up:
        up.until("First API key")
        address = f"http://127.0.0.1:{up.port}"
        _is_what_the_compose_file_says(up)
        with Client(address, up.key()) as client:
            job = client.wait(client.upload_dataset(tmp_path / "digits.parquet", "digits")["job"])
            ready = httpx.get(f"{address}/readyz").json()

            os.kill(up.pid("api"), signal.SIGKILL)
            up.until("api: ended with -9")
            up.until("api: started")
            _until_answers(address)
            after = client.dataset("digits")
        family = psutil.Process(up.process.pid).children(recursive=True)
        said = up.end()

    assert job["state"] == "done" and after["state"] == "ready"
    assert ready["status"] == "ok" and ready["checks"]["workers"] == "1 for cpu"
    assert up.process.returncode == 0, said
    assert "worker: stopped" in said and "api: stopped" in said
    assert len(family) >= 4 and not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]

    # Once more on the same volumes: what was there is there.
    with started(state) as again:
        again.until("First API key")
        with Client(f"http://127.0.0.1:{again.port}", again.key()) as client:
            kept = client.dataset("digits")

    assert kept["id"] == after["id"]
    assert again.key() == up.key()


@pytest.mark.faults
def test_what_it_started_ends_with_it_even_if_it_is_killed(state: Path) -> None:
    with started(state.parent / "killed") as up:
        up.until("First API key")
        family = psutil.Process(up.process.pid).children(recursive=True)

        up.process.kill()
        _, alive = psutil.wait_procs(family, timeout=60)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    assert len(family) >= 5
    assert not alive


def _is_what_the_compose_file_says(up: Up) -> None:
    """Commands and variables of the running processes are those of the file; only addresses and directories differ."""
    known = compose.dotenv(up.state.parent / "env") | {"EXPUNGE_PORT": str(up.port)}
    described = {service.name: service for service in compose.read(ROOT / "docker-compose.yml", known)}
    for name in ("api", "worker"):
        process, service = psutil.Process(up.pid(name)), described[name]
        command, environment = process.cmdline(), process.environ()
        words = command[command.index("expunge.cli") + 1 :]
        given = service.environment
        assert [word.replace(str(up.state), "/var/lib/expunge") for word in words] == SERVICES[name]["command"]
        assert {key for key in environment if key.startswith("EXPUNGE_")} == {key for key in given if key.startswith("EXPUNGE_")}
        for key in given.keys() - {"EXPUNGE_DATABASE_URL", "EXPUNGE_REDIS_URL", "EXPUNGE_HOST", "EXPUNGE_PORT"}:
            assert environment[key].replace(str(up.state), "/var/lib/expunge") == given[key], key
        for key, inner in (("EXPUNGE_DATABASE_URL", "postgres:5432"), ("EXPUNGE_REDIS_URL", "redis:6379")):
            assert re.sub(r"127\.0\.0\.1:\d+", inner, environment[key]) == given[key]
    steps = [line.split(":")[0] for line in up.said if re.match(r"\w+: (done|started|private)", line)]
    assert steps == list(described)


def _until_answers(address: str) -> None:
    for _ in range(300):
        with suppress(httpx.HTTPError):
            if httpx.get(f"{address}/readyz", timeout=5).status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError("the API did not come back")


def test_a_step_that_fails_is_named_and_what_was_started_is_stopped(state: Path, tmp_path: Path) -> None:
    broken = (ROOT / "docker-compose.yml").read_text().replace("command: [migrate]", "command: [migrate, --no-such-option]")
    (tmp_path / "compose.yml").write_text(broken)
    places = ["--state", str(state.parent / "other"), "--file", str(tmp_path / "compose.yml"), "--env-file", str(tmp_path / "env")]
    command = [sys.executable, "-m", "deploy.up", "--private", *places]
    before = {process.pid for process in psutil.process_iter()}

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 1
    assert "Failed: migrate ended with 2" in done.stdout, done.stdout + done.stderr
    there = psutil.process_iter(["cmdline"])  # of one that ends meanwhile, nothing
    left = [p for p in there if p.pid not in before and str(state.parent / "other") in " ".join(p.info["cmdline"] or [])]
    assert not left
