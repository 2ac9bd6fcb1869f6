"""The client repeats only what may be repeated, resumes what broke off, and believes no byte without its digest."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from expunge import follow
from expunge.client import Client, Problem, Unreachable
from expunge.download import DownloadFailed
from expunge.follow import Event, parse
from tests.cli.conftest import Site

pytestmark = pytest.mark.xdist_group("cli")


class Faulty(httpx.BaseTransport):
    """Real connections, with a fault applied to each answer."""

    def __init__(self, fault: Callable[[httpx.Request, httpx.Response], httpx.Response]) -> None:
        self.inner, self.fault, self.seen = httpx.HTTPTransport(), fault, list[httpx.Request]()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        return self.fault(request, self.inner.handle_request(request))


class CutShort(httpx.SyncByteStream):
    """A stream that breaks after some bytes."""

    def __init__(self, stream: httpx.SyncByteStream, after: int) -> None:
        self.stream, self.after = stream, after

    def __iter__(self) -> Iterator[bytes]:
        left = self.after
        for piece in self.stream:
            yield piece[:left]
            left -= len(piece)
            if left <= 0:
                raise httpx.ReadError("cut")

    def close(self) -> None:
        self.stream.close()


def cut(response: httpx.Response, after: int) -> httpx.Response:
    assert isinstance(response.stream, httpx.SyncByteStream)
    return httpx.Response(response.status_code, headers=response.headers, stream=CutShort(response.stream, after))


def test_an_answer_lost_on_the_way_is_asked_for_again_and_acted_upon_once(site: Site) -> None:
    lost: list[str] = []

    def lose_first(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path == "/forget" and request.method == "POST" and not lost:
            lost.append(response.read().decode())
            raise httpx.ReadError("lost")
        return response

    wire = Faulty(lose_first)
    with Client(site.url, site.key, transport=wire) as client:
        request = client.forget("digits", ids=["unknown-id"])
        client.wait(request["job"])

    posts = [r for r in wire.seen if r.method == "POST"]
    assert len(posts) == 2
    assert posts[0].headers["idempotency-key"] == posts[1].headers["idempotency-key"]
    assert request["id"] == json.loads(lost[0])["id"]


def test_what_has_no_idempotency_key_is_sent_once() -> None:
    tries = []

    def refuse(request: httpx.Request) -> httpx.Response:
        tries.append(request.url.path)
        raise httpx.ConnectError("refused")

    with Client("http://service", transport=httpx.MockTransport(refuse), retries=2) as client:
        for call in (lambda: client.create_key("x", ["model:read"]), lambda: client.cancel_request("r")):
            with pytest.raises(Unreachable):
                call()

    assert tries == ["/keys", "/forget/r/cancel"]


def test_a_busy_service_is_asked_again_and_a_refusal_is_not() -> None:
    answers = iter([httpx.Response(503), httpx.Response(429, json={"code": "slow_down"}), httpx.Response(200, json={"state": "done"}),
                    httpx.Response(422, json={"code": "invalid", "detail": "No.", "errors": [{"pointer": "/x", "detail": "wrong"}]})])

    with Client("http://service", transport=httpx.MockTransport(lambda request: next(answers))) as client:
        job = client.job("j")
        with pytest.raises(Problem) as refused:
            client.job("j")

    assert job == {"state": "done"}
    assert (refused.value.status, refused.value.code, refused.value.errors[0]["pointer"]) == (422, "invalid", "/x")


def test_a_broken_stream_of_events_goes_on_after_the_last_one_seen(site: Site) -> None:
    def cut_first(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        first = request.url.path.endswith("/events") and "last-event-id" not in request.headers
        return cut(response, 120) if first else response

    wire = Faulty(cut_first)
    with Client(site.url, site.key, transport=wire) as client:
        job = client.model("digits")["job"]
        whole = [event.kind for event in site.client().events(job)]

        found = [event.kind for event in client.events(job)]

    assert found == whole
    assert len([r for r in wire.seen if "last-event-id" in r.headers]) >= 1


def test_without_streams_a_job_is_polled_to_its_end(site: Site) -> None:
    def no_streams(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path.endswith("/events"):
            raise httpx.RemoteProtocolError("a proxy does not let streams through")
        return response

    with Client(site.url, site.key, transport=Faulty(no_streams)) as client:
        events = list(client.events(client.model("digits")["job"]))

    assert [event.kind for event in events] == ["end"]
    assert events[0].data["state"] == "done"


def test_a_stream_that_ends_in_the_middle_of_an_event_gives_none_of_it() -> None:
    lines = [": ping", "", "id: 7", "event: phase", 'data: {"phase":', 'data: "solving"}', "", "event: end", "data: {}"]

    assert list(parse(lines)) == [Event("phase", {"phase": "solving"}, "7")]
    assert "done" in follow.FINAL


def test_a_download_that_broke_off_goes_on_where_it_stopped(site: Site, tmp_path: Path) -> None:
    wire = Faulty(lambda request, response: cut(response, 30_000) if request.url.path.endswith(".safetensors") else response)

    with Client(site.url, site.key, transport=wire) as client:
        out = client.download("digits", out=tmp_path / "v")

    asked = [r.headers["range"] for r in wire.seen if "range" in r.headers]
    assert asked and all(start.startswith("bytes=") and start.endswith("-") for start in asked)
    with site.client() as client:
        assert {p.name: p.read_bytes() for p in client.download("digits", out=tmp_path / "w").iterdir()} == {
            p.name: p.read_bytes() for p in out.iterdir()}


def test_a_file_with_another_digest_is_thrown_away_and_nothing_appears(site: Site, tmp_path: Path) -> None:
    def flip(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if not request.url.path.endswith("user.safetensors"):
            return response
        data = bytearray(response.read())
        data[-1] ^= 1
        return httpx.Response(200, content=bytes(data))

    with Client(site.url, site.key, transport=Faulty(flip)) as client, pytest.raises(DownloadFailed, match="another sha256"):
        client.download("digits", out=tmp_path / "v")

    assert not (tmp_path / "v").exists()
    assert not list((tmp_path / "v.part").glob("user*"))


def test_a_directory_with_other_files_is_left_alone(site: Site, tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "thesis.tex").write_text("mine")

    with site.client() as client, pytest.raises(DownloadFailed, match=r"thesis\.tex"):
        client.download("digits", out=tmp_path / "v")

    assert (tmp_path / "v" / "thesis.tex").read_text() == "mine"


def test_a_name_cannot_reach_another_address() -> None:
    echo = httpx.MockTransport(lambda request: httpx.Response(200, json={"path": request.url.raw_path.decode()}))
    with Client("http://service", transport=echo) as client:
        assert client.model("../keys")["path"] == "/models/..%2Fkeys"
