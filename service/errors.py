"""Every error of the app becomes a problem document that names the field and echoes no data."""

from __future__ import annotations

import http
import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy.exc import DataError
from starlette.exceptions import HTTPException

from service.blobs import StoreFull, StoreUnavailable
from service.db import OUTAGE
from service.problem import Problem, at

LOG = logging.getLogger("expunge.http")


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem document."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(StoreFull, _full)
    for kind in (*OUTAGE, StoreUnavailable):
        app.add_exception_handler(kind, _outage)
    app.add_exception_handler(DataError, _unstorable)
    app.add_exception_handler(Exception, _unexpected)


def answer(problem: Problem) -> JSONResponse:
    return JSONResponse(problem.document(), problem.status, headers=problem.headers, media_type="application/problem+json")


def _problem(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)
    return answer(error)


def _http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large", 400: "bad_request"}
    details = {
        404: "Nothing is served at this address; see /openapi.json.",
        405: "This address does not answer this method; see /openapi.json.",
        413: "The body is larger than this address accepts.",
        400: "The body could not be parsed as JSON.",
    }
    status = error.status_code
    problem = Problem(
        status, codes.get(status, f"http_{status}"), details.get(status, http.HTTPStatus(status).phrase), headers=error.headers
    )
    return answer(problem)


def _full(_: Request, error: Exception) -> JSONResponse:
    return answer(Problem(507, "store_full", "There is no room left; nothing was accepted. Free space and send it again."))


def _outage(_: Request, error: Exception) -> JSONResponse:
    # Whether a commit that was cut off took place is unknown: the same key makes asking again safe.
    detail = "The record cannot be reached. Whether this was accepted is unknown: send it again with the same Idempotency-Key."
    LOG.error("a server is away: %s", type(error).__name__)
    return answer(Problem(503, "record_unavailable", detail, headers={"Retry-After": "2"}))


def _unstorable(_: Request, error: Exception) -> JSONResponse:
    # PostgreSQL's own limits: a NUL in a text, a number beyond its column.
    return answer(Problem(422, "unstorable", "A value of this request is outside what the record can hold."))


def _unexpected(request: Request, error: Exception) -> JSONResponse:
    # The type alone: a message or a local variable may hold personal data.
    LOG.error("unexpected %s at %s %s", type(error).__name__, request.method, request.scope.get("route"))
    return answer(Problem(500, "internal", "The service failed; nothing was changed. Try again, and report the time if it lasts."))


def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    known = _field_names(request)
    errors = [at(_pointer(e["loc"], known), _plain(e)) for e in error.errors()[:20]]
    unparsed = any(e["type"] == "json_invalid" for e in error.errors())
    code, detail = (
        ("json_invalid", "The body is not valid JSON.")
        if unparsed
        else ("invalid", "Some fields are missing or wrong; `errors` names them.")
    )
    return answer(Problem(422, code, detail, errors=errors))


_PREFIX = {"query": "query:", "path": "path:", "header": "header:", "cookie": "cookie:"}


def _pointer(loc: tuple[Any, ...], known: frozenset[str]) -> str:
    """A pointer made of indices and of names that the schema knows: a name that the caller invented is data."""
    head, parts = str(loc[0]), [p for p in loc[1:] if isinstance(p, int) or p in known]
    return _PREFIX[head] + "/".join(map(str, parts)) if head in _PREFIX else "".join(f"/{p}" for p in parts)


def _plain(error: Any) -> str:
    """What is wrong, without the value: pydantic's own messages quote the input for some types."""
    kind: str = error["type"]
    if kind == "extra_forbidden":
        return "an unknown field stands here; remove it"
    if kind in (
        "missing",
        "string_too_short",
        "string_too_long",
        "too_short",
        "too_long",
        "greater_than",
        "greater_than_equal",
        "less_than",
        "less_than_equal",
        "string_pattern_mismatch",
        "bool_type",
        "int_type",
        "float_type",
        "string_type",
        "list_type",
        "dict_type",
        "finite_number",
        "literal_error",
        "union_tag_not_found",
    ):
        return str(error["msg"])
    if kind in ("model_attributes_type", "model_type"):
        return "a JSON object is expected here, sent with Content-Type: application/json"
    if kind == "union_tag_invalid":
        return f"expected one of {error['ctx']['expected_tags']}"
    if kind == "value_error":
        return str(error["ctx"]["error"])  # our own validators, which name no data
    return f"not a valid value ({kind})"


def _field_names(request: Request) -> frozenset[str]:
    names: set[str] = set()
    todo: list[Any] = [p.field_info.annotation for p in getattr(getattr(request.scope.get("route"), "dependant", None), "body_params", [])]
    while todo:
        kind = todo.pop()
        todo.extend(getattr(kind, "__args__", ()))
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            for name, info in kind.model_fields.items():
                if name not in names:
                    names.add(name)
                    todo.append(info.annotation)
    route = request.scope.get("route")
    for param in ("path_params", "query_params", "header_params"):
        names.update(p.alias for p in getattr(getattr(route, "dependant", None), param, []))
    return frozenset(names)
