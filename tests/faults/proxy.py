"""A wire to the database that can be frozen without closing, or cut in the very commit that publishes."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from typing import Literal

PUBLISHES = b"INSERT INTO versions"
"""Stands in the transaction that publishes, and in no other."""

Cut = Literal["before", "after"]


class Proxy:
    """Passes bytes on between clients and one server on the loopback."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cut: Cut | None = None
        """Cut the next publishing commit: before the server sees it, or after, so that its answer is lost."""
        self.cuts = 0
        self._flows = threading.Event()
        self._flows.set()
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def freeze(self) -> None:
        """From now on nothing passes, and nobody is told: as when a cable is pulled."""
        self._flows.clear()

    def thaw(self) -> None:
        self._flows.set()

    def close(self) -> None:
        self._listener.close()
        self.hang_up()
        self.thaw()

    def hang_up(self) -> None:
        """Close every connection."""
        for end in self._sockets:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [client, server]
                for source, sink, forth in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._pump, args=(source, sink, forth), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, forth: bool) -> None:
        publishing = False
        with suppress(OSError):
            while data := source.recv(65536):
                self._flows.wait()
                publishing = publishing or (forth and PUBLISHES in data)
                if publishing and b"COMMIT" in data:
                    publishing = False
                    if cut := self.cut:
                        self.cut, self.cuts = None, self.cuts + 1
                        if cut == "after":
                            with suppress(OSError):
                                source.shutdown(socket.SHUT_RDWR)  # the answer finds nobody
                            sink.sendall(data)
                            time.sleep(0.2)
                        break
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
