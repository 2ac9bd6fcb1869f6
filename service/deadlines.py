"""Deadlines for requests that are never finished: uvicorn has none, and 500 half-sent headers would hold 500 connections for ever."""

from __future__ import annotations

import asyncio
import logging

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

LOG = logging.getLogger("expunge.http")

HEADER_SECONDS = 10.0
"""From the connection, or from the first byte of a further request, to the end of its header. Bytes in between buy no time."""

BODY_SECONDS = 20.0
"""How long a body may come in below `BODY_RATE`."""

BODY_RATE = 1024
"""Bytes a second of a body: far below the slowest link that anybody uploads over, far above one byte now and then."""


class Deadlines(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, for as long as the peer goes on speaking.

    Only the peer's silence counts: while the service itself does not read (the body's buffer is full, or the endpoint has not asked
    for the body yet), no time runs. Answers and event streams are not limited.
    """

    _timer: asyncio.TimerHandle | None = None
    _awaits_body = False
    _received = 0
    _held_back = False
    """Within this window the service did not want to read: a slow body is not the peer's fault."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._set(self.loop.call_later(HEADER_SECONDS, self._late))

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)

    def handle_events(self) -> None:
        super().handle_events()
        self._held_back |= self.flow.read_paused
        state, begun = self.conn.their_state, bool(self.conn.trailing_data[0])
        if state is h11.SEND_BODY:
            if not self._awaits_body:
                self._watch_body()
        elif state is not h11.IDLE:
            self._set(None)
        elif self._timer is None or self._awaits_body:
            # Between two requests the keep-alive time runs; from the first byte of the next, the time for its header.
            self._set(self.loop.call_later(HEADER_SECONDS, self._late) if begun else None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._set(None)
        super().connection_lost(exc)

    def _set(self, timer: asyncio.TimerHandle | None, *, body: bool = False) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._awaits_body = timer, body

    def _watch_body(self) -> None:
        self._received, self._held_back = 0, self._does_not_read()
        self._set(self.loop.call_later(BODY_SECONDS, self._judge_body), body=True)

    def _judge_body(self) -> None:
        self._held_back |= self._does_not_read()
        if self._held_back or self._received >= BODY_RATE * BODY_SECONDS:
            self._watch_body()
        else:
            self._late()

    def _does_not_read(self) -> bool:
        return self.flow.read_paused or (self.cycle is not None and self.cycle.waiting_for_100_continue)

    def _late(self) -> None:
        self._set(None)
        LOG.info("closed a connection whose request did not come in time")
        # Not close(): a peer that does not read either would keep the connection open for as long as its answer waits.
        self.transport.abort()
