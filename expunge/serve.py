"""`expunge serve`: the whole service in one process with one warm child, no server to install; or, over servers, its API alone."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any, Protocol

import uvicorn

from service import auth, logs
from service.app import create_app
from service.db import now
from service.deadlines import Deadlines
from service.dispatcher import Dispatcher, recover
from service.home import Home, open_home
from service.settings import Settings
from service.traces import Traced

GONE_MS = 60_000
"""How long sent bytes may go unacknowledged before the peer counts as gone; the system's own patience is a quarter of an hour."""

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class NotLoopback(Exception):
    """The embedded service speaks plain HTTP and must not leave the machine."""


def serve(settings: Settings, *, key_file: Path | None, announce: Any) -> None:
    """Run until SIGINT or SIGTERM. Killed at any moment and started again, it finishes what it had accepted.

    Args:
        key_file: where to write the first API key (mode 0600) instead of announcing it.
        announce: called with one line of text at a time: the address, and the first key, once.

    Raises:
        NotLoopback, DataDirectoryInUse; SchemaBehind: distributed, before `expunge migrate`.
    """
    if not settings.distributed and settings.host not in LOOPBACK:
        raise NotLoopback(f"the embedded service listens on loopback only, not on {settings.host}; put a TLS proxy in front of it")
    logs.configure()
    home = open_home(settings)
    try:
        if not settings.distributed:  # alone on the data: whatever was running is not
            recover(home)
        first = _first_key(home, key_file)
        listener = _listener(settings)
        address = f"http://{'[::1]' if ':' in settings.host else settings.host}:{listener.getsockname()[1]}"
        announce(f"listening on {address}")
        if first:
            announce(f"first API key, shown once: {first}")
        _run(home, listener, _distributed(home) if settings.distributed else _embedded(home))
    finally:
        home.close()


def _listener(settings: Settings) -> socket.socket:
    # The protocol is named: asyncio sets TCP_NODELAY only where it is, and without it an answer waits 40 ms for the peer's ACK.
    listener = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Inherited by what it accepts: a peer that is gone without a word, between two requests or in the middle of an answer, is given up.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, GONE_MS)
    listener.bind((settings.host, settings.port))
    listener.listen(128)
    return listener


class Part(Protocol):
    """What runs beside the API until it is stopped."""

    def run(self) -> None: ...

    def stop(self) -> None: ...


def _embedded(home: Home) -> list[Part]:
    from workers.runner import Runner

    hint = threading.Event()
    return [Runner(home, hint), Dispatcher(home, hint.set)]


def _distributed(home: Home) -> list[Part]:
    # Here and not above: a service of one process needs no message broker, and an API process no runner.
    from service.leader import Leader
    from workers.hints import Hints

    return [Dispatcher(home, Hints(home), leader=Leader(home.settings.database_url, "dispatcher"))]


def _run(home: Home, listener: socket.socket, parts: list[Part]) -> None:
    threads = [threading.Thread(target=part.run, name=type(part).__name__) for part in parts]
    for thread in threads:
        thread.start()
    server = uvicorn.Server(
        uvicorn.Config(
            Traced(create_app(home)),
            http=Deadlines,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=3,
        )
    )
    try:
        server.run(sockets=[listener])
    finally:
        for part in parts:
            part.stop()
        for thread in threads:
            thread.join()


def _first_key(home: Home, key_file: Path | None) -> str | None:
    """Make a key with every scope if there is none. Returns it, unless it went to `key_file`."""
    with home.db.write() as session:
        if auth.any_key(session):
            return None
        _, token = auth.create(session, name="first", scopes=list(auth.SCOPES), now=now())
        if key_file is None:
            return token
        # Written before the commit: a key that nobody can read must not exist.
        key_file.touch(mode=0o600)
        key_file.write_text(token + "\n")
    return None
