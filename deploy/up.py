"""`make up`: takes the steps of docker-compose.yml on this machine, without a container engine.

Commands, variables, order and health checks are read from that file; only addresses and directories are this machine's own.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from deploy import compose, servers
from deploy.compose import Service
from deploy.tether import tether
from tests.servers import Server

ROOT = Path(__file__).parents[1]
PROGRAMS = {"expunge": (sys.executable, "-P", "-m", "expunge.cli"), "python": (sys.executable,)}
"""What a container finds on its path."""

VOLUMES = "/var/lib/expunge"
BACKOFF = (1.0, 30.0)
"""Seconds before a program that ended is started again: at first, and at most."""


class Failed(Exception):
    """A step did not succeed. The message says which, and where its words are."""


@dataclass
class Running:
    """One program that is kept running."""

    service: Service
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    wait: float = BACKOFF[0]
    again: float = 0.0

    def start(self) -> None:
        with open(self.log, "ab", opener=_private) as log:
            # A session of its own: Ctrl-C reaches this process alone, which then ends everything in order.
            self.process = subprocess.Popen(  # noqa: S603  the compose file's command, no shell
                self.command,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=tether(),
            )
        self.began = time.monotonic()
        say(f"{self.service.name}: started (pid {self.process.pid}), log in {self.log}")

    def look(self) -> None:
        """Start it again if it ended, each time after a longer wait."""
        assert self.process is not None
        if self.process.poll() is None:
            return
        if not self.again:
            self.wait = BACKOFF[0] if time.monotonic() - self.began > BACKOFF[1] else min(self.wait * 2, BACKOFF[1])
            self.again = time.monotonic() + self.wait
            say(f"{self.service.name}: ended with {self.process.returncode}, starts again in {self.wait:.0f} s")
        elif time.monotonic() >= self.again:
            self.again = 0.0
            self.start()

    def stop(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(self.service.grace)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        say(f"{self.service.name}: stopped")


@dataclass
class Machine:
    """This machine in the place of the engine: where the file's names, directories and ports really are."""

    state: Path
    port: str
    """Of the API on this machine."""
    names: dict[str, str] = field(default_factory=dict)
    """What stands in the file -> what is true here."""

    def here(self, text: str) -> str:
        for name, value in self.names.items():
            text = text.replace(name, value)
        return text

    def command(self, words: Sequence[str]) -> list[str]:
        program = PROGRAMS.get(words[0])
        return [*(program or (words[0],)), *map(self.here, words[1:])]

    def environment(self, service: Service) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith(("EXPUNGE_", "AWS_", "COMPOSE_", "POSTGRES_"))}
        given = {name: self.here(value) for name, value in service.environment.items()}
        if "EXPUNGE_PORT" in given:
            given["EXPUNGE_PORT"] = self.port
        return own | given | {"PYTHONPATH": str(ROOT), "HOME": own.get("HOME", str(self.state))}


def up(services: Sequence[Service], *, state: Path, password: str, private: bool) -> None:
    """Start everything, say when it is ready, and keep it running until SIGINT or SIGTERM.

    Raises:
        Failed, servers.NoServer: a step did not succeed; what was started has been stopped.
    """
    for directory in (state, state / "keys", state / "blobs"):
        directory.mkdir(parents=True, exist_ok=True, mode=0o711 if directory == state else 0o700)
    api = next(service for service in services if service.ports)
    host, port, inner = api.ports[0].rsplit(":", 2)
    # The health checks and the settings name the port within the container; here there is only one.
    names = {f"127.0.0.1:{inner}": f"{host}:{port}", f"http://api:{inner}": f"http://{host}:{port}", "0.0.0.0": host, VOLUMES: str(state)}  # noqa: S104
    machine = Machine(state, port, names)
    with _only_one(state), ExitStack() as stack:
        own: list[Server] = []
        programs: dict[str, Running] = {}
        for service in services:
            for other, condition in service.needs.items():
                if condition == "service_healthy" and other in programs:
                    _until_healthy(programs[other], machine)
            if not service.built:
                own += _server(service, machine, password, private, stack)
            elif service.once:
                _carry_out(service, machine)
            else:
                programs[service.name] = running = Running(
                    service, machine.command(("expunge", *service.command)), machine.environment(service), state / f"{service.name}.log"
                )
                stack.callback(running.stop)
                running.start()
        for running in programs.values():
            _until_healthy(running, machine)
        say(f"Ready: http://{host}:{port}")
        say(f"First API key: {state / 'keys' / 'first-key.txt'}")
        while True:
            time.sleep(0.5)
            for server in own:
                if server.process is not None and server.process.poll() is not None:
                    server.start()
            for running in programs.values():
                running.look()


def _server(service: Service, machine: Machine, password: str, private: bool, stack: ExitStack) -> list[Server]:
    if service.name == "postgres":
        place, inner = servers.postgres(machine.state, password, private=private), "@postgres:5432"
        machine.names[inner] = f"@{place.address}"
    else:
        place, inner = servers.hints(machine.state, service.command, private=private), "//redis:6379"
        machine.names[inner] = f"//{place.address}"
    say(f"{service.name}: {'private, on' if place.own else 'that of this machine, on'} {place.address}")
    if place.own is None:
        return []
    stack.callback(place.own.stop)
    return [place.own]


def _carry_out(service: Service, machine: Machine) -> None:
    log = machine.state / f"{service.name}.log"
    with open(log, "ab", opener=_private) as words:
        command = machine.command(("expunge", *service.command))
        done = subprocess.run(command, env=machine.environment(service), stdout=words, stderr=words, timeout=600, check=False)  # noqa: S603
    if done.returncode:
        raise Failed(f"{service.name} ended with {done.returncode}; its words are in {log}")
    say(f"{service.name}: done")


def _until_healthy(running: Running, machine: Machine) -> None:
    service = running.service
    deadline = time.monotonic() + service.patience
    while service.check:
        command, environment = machine.command(service.check), machine.environment(service)
        if subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False).returncode == 0:  # noqa: S603
            say(f"{service.name}: healthy")
            return
        if time.monotonic() > deadline:
            raise Failed(f"{service.name} is not healthy after {service.patience:.0f} s; its words are in {running.log}")
        running.look()
        time.sleep(0.3)


@contextmanager
def _only_one(state: Path) -> Iterator[None]:
    with (state / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failed(f"it runs already on {state}") from None
        yield


def variables(env_file: Path, example: Path) -> dict[str, str]:
    """The environment over .env, which is made from the example, with a password of its own, if it is not there."""
    if not env_file.exists():
        password = f"POSTGRES_PASSWORD={secrets.token_hex(24)}"
        text = example.read_text().replace("POSTGRES_PASSWORD=", password, 1)
        with open(env_file, "x", opener=_private) as file:
            file.write(text)
        say(f"{env_file}: made from {example.name}, with a random password")
    return compose.dotenv(env_file) | dict(os.environ)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _end(number: int, _: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(prog="make up", description=__doc__)
    parser.add_argument("--file", type=Path, default=ROOT / "docker-compose.yml")
    parser.add_argument("--env-file", type=Path, default=ROOT / ".env")
    parser.add_argument("--state", type=Path, default=ROOT / "expunge-data" / "up", help="where volumes and logs are kept")
    parser.add_argument("--private", action="store_true", help="start servers of its own even where some answer")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, _end)
    try:
        known = variables(chosen.env_file, ROOT / ".env.example")
        services = compose.read(chosen.file, known)
        up(services, state=chosen.state.resolve(), password=known["POSTGRES_PASSWORD"], private=chosen.private)
    except KeyboardInterrupt:
        return 0
    except (Failed, servers.NoServer, compose.Missing) as error:
        say(f"Failed: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
