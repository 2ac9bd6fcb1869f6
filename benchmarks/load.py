"""Load on an HTTP service: so many clients, each over one connection, each asking again as soon as it is answered."""

from __future__ import annotations

import http.client
import json
import threading
import time
from dataclasses import dataclass
from statistics import quantiles
from typing import Any
from urllib.parse import urlsplit

from benchmarks.live import Unexpected


@dataclass(frozen=True)
class Load:
    """What a number of clients saw."""

    clients: int
    seconds: tuple[float, ...]
    """Of every answer, in no order."""
    took: float
    """Seconds from the first request to the last answer."""

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.seconds) / self.took

    def percentile(self, percent: int) -> float:
        return quantiles(self.seconds, n=100, method="inclusive")[percent - 1]


def load(
    address: str, *, clients: int, seconds: float, method: str, path: str, token: str = "", body: Any = None, expect: int = 200
) -> Load:
    """Ask for `seconds` from every client at once.

    Raises:
        Unexpected: an answer had another status.
    """
    place = urlsplit(address)
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    data = None if body is None else json.dumps(body).encode()
    spent: list[list[float]] = [[] for _ in range(clients)]
    wrong: list[str] = []
    gate, stop = threading.Barrier(clients + 1), threading.Event()

    def ask(own: list[float]) -> None:
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
        gate.wait()
        while not stop.is_set() and not wrong:
            begun = time.perf_counter()
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            answer.read()
            own.append(time.perf_counter() - begun)
            if answer.status != expect:
                wrong.append(f"{method} {path} gave {answer.status}")
        connection.close()

    threads = [threading.Thread(target=ask, args=(own,)) for own in spent]
    for thread in threads:
        thread.start()
    gate.wait()
    begun = time.perf_counter()
    stop.wait(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    if wrong:
        raise Unexpected(wrong[0])
    return Load(clients, tuple(s for own in spent for s in own), time.perf_counter() - begun)
