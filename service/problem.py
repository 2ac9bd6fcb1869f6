"""Problem: a refusal that the caller can act on (RFC 9457), raised anywhere, turned into an answer at the edge."""

from __future__ import annotations

import http
from collections.abc import Iterable, Mapping
from typing import Any


class Problem(Exception):
    """A refusal that the caller can act on.

    `code` is stable and meant for programs; `detail` says in one sentence what is wrong and what to do next.
    `errors` lists the fields at fault as JSON pointers. Nothing that the caller sent is repeated.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Iterable[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(code)
        self.status, self.code, self.detail = status, code, detail
        self.errors = [dict(e) for e in errors]
        self.headers, self.extra = dict(headers or {}), dict(extra or {})

    def document(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "type": f"urn:expunge:problem:{self.code}",
            "title": http.HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
        }
        if self.errors:
            body["errors"] = self.errors
        return body | self.extra


def at(pointer: str, detail: str) -> dict[str, str]:
    """One field at fault: a JSON pointer into the body (or `header:`/`query:`/`path:` and a name) and what is wrong."""
    return {"pointer": pointer, "detail": detail}


def not_found(what: str) -> Problem:
    return Problem(404, f"{what}_not_found", f"There is no such {what}, or this key may not see it.")
