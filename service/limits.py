"""Bodies declared too long are refused before a byte is read, as a problem document: the framework's own answer is plain text."""

from __future__ import annotations

import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import answer
from service.problem import Problem


class DeclaredLength:
    """Middleware: 413 for a Content-Length over `limit`, except at addresses that stream."""

    def __init__(self, app: ASGIApp, *, limit: int, except_for: re.Pattern[str]) -> None:
        self._app, self._limit, self._except_for = app, limit, except_for

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._except_for.fullmatch(scope["path"]):
            declared = Headers(scope=scope).get("content-length", "0")
            if not declared.isdigit() or int(declared) > self._limit:
                problem = Problem(413, "body_too_large", f"The body is larger than the {self._limit} bytes that this address accepts.")
                await answer(problem)(scope, receive, send)
                return
        await self._app(scope, receive, send)
