"""The load that the service is measured with, against a server that counts."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest

from benchmarks import service
from benchmarks.live import Unexpected
from benchmarks.load import Load, load
from benchmarks.outcome import show


class Counting(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).seen += 1
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Counting)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_every_answer_is_timed_and_none_is_made_up(address: str) -> None:
    Counting.seen = 0

    found = load(address, clients=4, seconds=0.3, method="POST", path="/forget", body={"a": 1}, expect=202)

    assert len(found.seconds) == Counting.seen > 4
    assert 0 < found.percentile(50) <= found.percentile(99) <= max(found.seconds) < found.took
    assert found.rate == pytest.approx(Counting.seen / found.took)


def test_an_answer_that_was_not_wanted_ends_the_measurement(address: str) -> None:
    with pytest.raises(Unexpected, match="gave 202"):
        load(address, clients=2, seconds=5, method="POST", path="/forget", body={}, expect=200)


def test_goals_are_judged_by_eight_clients_and_by_the_cost_of_one_job() -> None:
    def loads(rate: int) -> dict[int, Load]:
        return {n: Load(n, (0.001, 0.002, 0.003) * rate, 3.0) for n in service.CLIENTS}

    cost = {"together": 1000, "one_job": 2.0, "jobs_measured": 10, "each_job": 0.5, "many_jobs": 500.0}
    found = service.outcome_of({"expunge": loads(60), "bare": loads(100)}, {"expunge": loads(60), "bare": loads(100)}, cost)

    assert [(goal.reached, goal.met) for goal in found.goals] == [("0.6x", True), ("250x", True)]
    assert "1,000 queued requests for one model, as one job" in show(found)
