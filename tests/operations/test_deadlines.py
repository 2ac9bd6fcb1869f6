"""Half-sent requests: they end, and nobody who asks properly waits for them. Real sockets, a real server."""

from __future__ import annotations

import asyncio
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import httpx
import pytest
import uvicorn

from service import deadlines
from tests.live import Live

SERVICE_SECONDS = deadlines.HEADER_SECONDS  # as it is; the server of this file has a shorter one
HALF = b"POST /forget HTTP/1.1\r\nHost: a\r\nX-Slow: "


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the length of the body; at /lazy it begins to read only after three windows; at /deaf it never does."""
    if scope["type"] != "http":
        return
    size, more = 0, scope["path"] != "/deaf"
    if scope["path"] == "/lazy":
        await asyncio.sleep(1.5)
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    text = str(size).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(text)).encode())]})
    await send({"type": "http.response.body", "body": text})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A server whose deadlines are half a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deadlines, "HEADER_SECONDS", 0.5)
        patch.setattr(deadlines, "BODY_SECONDS", 0.5)
        listener = socket.create_server(("127.0.0.1", 0), backlog=600)
        server = uvicorn.Server(uvicorn.Config(echo, http=deadlines.Deadlines, log_config=None, lifespan="off", timeout_keep_alive=30))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


def connect(port: int) -> socket.socket:
    peer = socket.create_connection(("127.0.0.1", port), timeout=10)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return peer


def get(peer: socket.socket) -> bytes:
    peer.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    answer = b""
    while not answer.endswith(b"\r\n\r\n0"):
        answer += peer.recv(4096)
    return answer


def seconds_until_closed(peer: socket.socket, *, drip: bytes = b"") -> float:
    """Until the service hangs up, while one byte is sent ten times a second."""
    begun, heard = time.monotonic(), select.poll()  # select() knows no descriptor above 1,023
    heard.register(peer, select.POLLIN)
    while time.monotonic() - begun < 20:
        if heard.poll(100):
            try:
                if not peer.recv(4096):
                    return time.monotonic() - begun
            except ConnectionError:
                return time.monotonic() - begun
        try:
            peer.send(drip)
        except OSError:
            return time.monotonic() - begun
    raise AssertionError("the connection is still open after 20 s")


def test_500_half_sent_headers_end_in_time_and_others_are_answered_meanwhile(port: int) -> None:
    with ExitStack() as stack:
        peers = [stack.enter_context(connect(port)) for _ in range(500)]
        for peer in peers:
            peer.send(HALF)

        begun = time.monotonic()
        answer = httpx.post(f"http://127.0.0.1:{port}/", content=b"four")
        waited = time.monotonic() - begun
        longest = max(seconds_until_closed(peer) for peer in peers)

    assert (answer.status_code, answer.text) == (200, "4")
    assert waited < 5
    assert longest < 15


@pytest.mark.parametrize("first", [b"", HALF, b"G"])
def test_bytes_that_drip_in_buy_no_time_for_a_header(port: int, first: bytes) -> None:
    with connect(port) as peer:
        peer.send(first)

        assert 0.3 < seconds_until_closed(peer, drip=b"a") < 10


def test_a_second_request_on_a_connection_has_its_own_deadline(port: int) -> None:
    with connect(port) as peer:
        first = get(peer)
        time.sleep(1)  # idle between requests is the keep-alive's matter
        second = get(peer)
        peer.send(HALF)

        assert first.startswith(b"HTTP/1.1 200") and second.startswith(b"HTTP/1.1 200")
        assert 0.3 < seconds_until_closed(peer, drip=b"a") < 10


@pytest.mark.parametrize("path", [b"/", b"/deaf"])
def test_a_body_that_drips_in_is_given_up_even_when_it_was_answered_already(port: int, path: bytes) -> None:
    with connect(port) as peer:
        peer.send(b"POST " + path + b" HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nbegin")

        assert 0.3 < seconds_until_closed(peer, drip=b"a") < 10


def test_a_slow_but_steady_body_and_one_that_the_service_keeps_waiting_arrive_whole(port: int) -> None:
    def slowly() -> Iterator[bytes]:
        for _ in range(15):
            time.sleep(0.1)
            yield b"x" * 1024

    steady = httpx.post(f"http://127.0.0.1:{port}/", content=slowly(), timeout=20)
    lazy = httpx.post(f"http://127.0.0.1:{port}/lazy", content=b"x" * (8 << 20), timeout=20)

    assert steady.text == str(15 * 1024)
    assert lazy.text == str(8 << 20)


@pytest.mark.slow
def test_the_service_itself_answers_beside_500_half_sent_requests_and_ends_them(live: Live) -> None:
    address = live.client.base_url
    with ExitStack() as stack:
        peers = [stack.enter_context(connect(int(address.port or 0))) for _ in range(500)]
        for peer in peers:
            peer.send(HALF)
        begun = time.monotonic()
        answers = [live.client.get("/models").status_code for _ in range(20)]
        waited = time.monotonic() - begun
        open_ = set(peers)
        while open_ and time.monotonic() - begun < SERVICE_SECONDS + 30:
            for peer in select.select(list(open_), [], [], 0.5)[0]:
                with suppress(ConnectionError):
                    assert not peer.recv(4096)
                open_.discard(peer)
        ended = time.monotonic() - begun

    assert answers == [200] * 20 and waited < SERVICE_SECONDS / 2
    assert not open_ and ended > SERVICE_SECONDS / 2, f"{len(open_)} of 500 are open after {ended:.0f} s"
