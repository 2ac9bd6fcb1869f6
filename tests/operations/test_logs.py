"""Logs and traces: one object a line, a trace for every request, and nothing that a caller typed."""

from __future__ import annotations

import io
import json
import logging
import time
import uuid
from typing import Any

import httpx
import pytest

from service import logs, traces
from tests.live import Live

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SECRET = "anna.meier@example.org"


def lines(live: Live) -> list[dict[str, Any]]:
    return [json.loads(line) for line in live.log.splitlines() if line.startswith("{")]


def answered(live: Live, trace: str) -> dict[str, Any]:
    """The line that says how a request ended, which is written a moment after its answer."""
    for _ in range(100):
        found = [line for line in lines(live) if line.get("trace") == trace]
        if found:
            assert [line["event"] for line in found] == ["answered"]
            return found[0]
        time.sleep(0.02)
    raise AssertionError(f"no line carries the trace: {live.log[-2000:]}")


def test_a_callers_trace_goes_through_the_answer_and_every_line_of_the_request(live: Live) -> None:
    trace = uuid.uuid4().hex

    answer = live.client.get("/models/none", headers={"traceparent": f"00-{trace}-{SPAN}-01"})

    version, told, span, flags = answer.headers["traceresponse"].split("-")
    assert (answer.status_code, version, told, flags) == (404, "00", trace, "01")
    assert span != SPAN
    line = answered(live, trace)
    assert (line["event"], line["method"], line["route"], line["status"]) == ("answered", "GET", "/models/{name}", 404)
    assert line["span"] == span and line["ms"] > 0


def test_an_accepted_request_is_tied_to_its_job_by_the_log(live: Live) -> None:
    trace, name = uuid.uuid4().hex, uuid.uuid4().hex[:12]
    live.fit(name, "digits", training={"epochs": 1})

    answer = live.client.post(
        "/forget", json={"model": name, "forget": {"kind": "samples", "ids": [SECRET]}}, headers={"traceparent": f"00-{trace}-{SPAN}-00"}
    )

    line = answered(live, trace)
    assert line["location"] == answer.headers["Location"] == f"/jobs/{answer.json()['job']}"
    assert SECRET not in live.log and "meier" not in live.log


@pytest.mark.parametrize("path", ["/models/" + SECRET, "/" + SECRET, "/jobs?state=" + SECRET, "/models/x/versions/" + SECRET])
def test_what_was_typed_into_an_address_is_not_logged(live: Live, path: str) -> None:
    live.client.get(path)

    assert SECRET not in live.log and "meier" not in live.log


def test_probes_are_answered_without_a_line(live: Live) -> None:
    before = len(lines(live))

    statuses = {live.client.get(path).status_code for path in ("/healthz", "/readyz", "/metrics")}

    assert statuses == {200}
    assert not [line for line in lines(live)[before:] if line.get("route") in ("/healthz", "/readyz", "/metrics")]


@pytest.mark.parametrize(
    "header",
    [
        None, "", "junk", f"00-{TRACE}-{SPAN}", f"00-{TRACE.upper()}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01-more", f"00-{TRACE}-{SPAN}-01\n", f"0-{TRACE}-{SPAN}-01",
    ],
)  # fmt: skip
def test_a_traceparent_that_is_not_valid_begins_a_new_trace(header: str | None) -> None:
    trace = traces.trace_of(header)

    assert trace.trace != TRACE and len(trace.trace) == 32 and trace.trace.strip("0")
    assert trace.header == f"00-{trace.trace}-{trace.span}-00"


@pytest.mark.parametrize("header", [f"00-{TRACE}-{SPAN}-01", f"01-{TRACE}-{SPAN}-01", f"01-{TRACE}-{SPAN}-01-what-comes-later"])
def test_a_valid_traceparent_of_this_or_a_later_version_is_gone_on_with(header: str) -> None:
    trace = traces.trace_of(header)

    assert (trace.trace, trace.flags) == (TRACE, "01")
    assert trace.span != SPAN


def test_an_exception_is_logged_by_type_and_place_and_never_by_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logs.configure()
        try:
            raise ValueError(SECRET)
        except ValueError:
            logging.getLogger("somebody").exception("it failed", extra={"body": SECRET, "status": 500})
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)

    (line,) = [json.loads(text) for text in written.getvalue().splitlines()]
    assert line["event"] == "it failed" and line["status"] == 500 and line["level"] == "error"
    assert line["error"].startswith("ValueError at test_logs.py:")
    assert SECRET not in written.getvalue()


def test_every_answer_names_its_trace_also_a_refused_body_and_a_wrong_address(live: Live) -> None:
    anonymous = httpx.Client(base_url=live.client.base_url)

    answers = [anonymous.get("/nowhere"), anonymous.get("/models"), anonymous.post("/forget", content=bytes((64 << 20) + 1))]

    assert [a.status_code for a in answers] == [404, 401, 413]
    assert len({a.headers["traceresponse"] for a in answers}) == 3
