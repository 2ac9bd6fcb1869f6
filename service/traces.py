"""Traces: every line that a request causes carries its trace, the answer names it, and one line says how it ended."""

from __future__ import annotations

import logging
import re
import secrets
import time
from dataclasses import dataclass

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOG = logging.getLogger("expunge.http")

QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked every few seconds by machines: a line each would bury the others."""

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")


@dataclass(frozen=True)
class Trace:
    """Where one request stands in its caller's trace (W3C Trace Context)."""

    trace: str
    """32 hex digits: the caller's, or new."""
    span: str
    """16 hex digits: this service's part of it."""
    flags: str

    @property
    def header(self) -> str:
        return f"00-{self.trace}-{self.span}-{self.flags}"


def trace_of(traceparent: str | None) -> Trace:
    """Go on with the caller's trace, or begin one where the header is missing or not valid.

    Source: W3C Trace Context, sections 3.2.2 and 4.2. https://www.w3.org/TR/trace-context/
    """
    text = traceparent or ""
    known = _TRACEPARENT.fullmatch(text)
    # A later version may append fields; version 00 has none. All zeros are not ids.
    if known is None or not known[1].strip("0") or not known[2].strip("0") or (text.startswith("00-") and len(text) != 55):
        return Trace(secrets.token_hex(16), secrets.token_hex(8), "00")
    return Trace(known[1], secrets.token_hex(8), known[3])


class Traced:
    """Middleware: every line that a request causes carries its trace; the answer names it; one line says how it ended."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        trace = trace_of(Headers(scope=scope).get("traceparent"))
        begun, status, location = time.perf_counter(), 0, None

        async def tell(message: Message) -> None:
            nonlocal status, location
            if message["type"] == "http.response.start":
                status, headers = message["status"], MutableHeaders(scope=message)
                headers["traceresponse"], location = trace.header, headers.get("location")
            await send(message)

        with structlog.contextvars.bound_contextvars(trace=trace.trace, span=trace.span):
            try:
                await self._app(scope, receive, tell)
            finally:
                if scope["path"] not in QUIET:
                    _say(scope, status, location, time.perf_counter() - begun)


def _say(scope: Scope, status: int, location: str | None, seconds: float) -> None:
    # The route's pattern and not the address: an address may hold what a caller typed.
    route = getattr(scope.get("route"), "path", "-")
    # `location` leads from this trace to the job.
    told = {"method": scope["method"], "route": route, "status": status, "ms": round(seconds * 1000, 1)}
    LOG.info("answered", extra=told | ({"location": location} if location else {}))
