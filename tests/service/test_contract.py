"""The HTTP contract: answers, headers, errors; against a real service process."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.digits import Digits, parquet
from tests.live import Live
from tests.service.forms import BOTH_FORMS

MODEL = "contract"
SECRET = "anna.meier@example.org"


@pytest.fixture(scope="module")
def model(live: Live, upload: bytes) -> str:
    """A model with one version, which the tests of this file only read or ask in vain."""
    if live.client.get(f"/models/{MODEL}").status_code == 404:
        live.upload(MODEL, upload)
        live.fit(MODEL, MODEL)
    return MODEL


@pytest.fixture
def changed(live: Live, data: Digits, tmp_path: Path) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """A model that forgot once: its name, its first request's answer, that request once ended."""
    name = uuid.uuid4().hex[:12]
    live.upload(name, parquet(data, tmp_path / "d.parquet"))
    live.fit(name, name)
    answer = live.forget(name, ids=data.of(role="user")[:2], reason="gdpr-17", reference="DSR-123").json()
    yield name, answer, live.request(answer["id"])


def test_a_request_is_answered_at_once_with_a_job_to_poll_and_a_due_date(changed: tuple[str, dict[str, Any], dict[str, Any]]) -> None:
    _, answer, ended = changed

    assert answer["state"] == "received" and answer["job"]
    assert (answer["method"], answer["reason"], answer["reference"]) == ("exact", "gdpr-17", "DSR-123")
    assert answer["received_at"] < answer["due_at"]
    assert ended["state"] == "fulfilled" and ended["finished_at"] <= ended["due_at"]


def test_every_error_is_a_problem_document_with_a_stable_code(live: Live, model: str) -> None:
    anonymous = httpx.Client(base_url=live.client.base_url)
    cases = [
        (anonymous.get("/models"), 401, "unauthenticated"),
        (live.client.get("/nowhere"), 404, "not_found"),
        (live.client.delete("/models"), 405, "method_not_allowed"),
        (live.client.get("/models/none"), 404, "model_not_found"),
        (live.client.get("/jobs/none"), 404, "job_not_found"),
        (live.client.get("/jobs/none/events"), 404, "job_not_found"),
        (live.client.get(f"/models/{model}/versions/99"), 404, "version_not_found"),
        (live.client.get(f"/models/{model}/versions/1/files/%2e%2e%2fetc"), 404, "not_found"),
        (live.client.get(f"/models/{model}/versions/1/files/none"), 404, "file_not_found"),
        (live.client.post("/forget", content=b"{"), 422, "invalid"),
        (live.client.post("/forget", content=b"{", headers={"Content-Type": "application/json"}), 422, "json_invalid"),
        (live.client.post("/forget", content=b"[" * 100_000, headers={"Content-Type": "application/json"}), 400, "bad_request"),
        (live.forget("none", ids=["a"]), 404, "model_not_found"),
        (live.forget(model, ids=["a"], method="zero"), 422, "method_unsupported"),
        (live.forget(model, where={"label": "three"}), 422, "label_type"),
        (live.forget(model, where={"attributes": {"shoe": 1}}), 422, "attribute_unknown"),
        (live.client.get("/jobs?limit=0"), 422, "invalid"),
    ]  # fmt: skip

    for answer, status, code in cases:
        assert (answer.status_code, answer.json().get("code")) == (status, code), (answer.request.url, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        assert set(answer.json()) >= {"type", "title", "status", "code", "detail"}


@pytest.mark.parametrize(
    ("forget", "pointer"),
    [
        ({"kind": "samples"}, "/forget"),
        ({"kind": "samples", "ids": []}, "/forget"),
        ({"kind": "samples", "ids": [SECRET, 3]}, "/forget/ids/1"),
        ({"kind": "samples", "ids": [""]}, "/forget/ids/0"),
        ({"kind": "samples", "ids": ["\ud800" + SECRET]}, "/forget/ids/0"),
        ({"kind": "samples", "subjects": SECRET}, "/forget/subjects"),
        ({"kind": "samples", "where": {"label": 1.5}}, "/forget/where/label"),
        ({"kind": "samples", "where": {}}, "/forget/where"),
        ({"kind": "samples", "where": {"attributes": {SECRET: []}}}, "/forget/where/attributes"),
        ({"kind": "samples", "ids": ["a"], SECRET: 1}, "/forget"),
        ({"kind": SECRET}, "/forget"),
        ({}, "/forget"),
    ],
)
def test_bad_bodies_name_the_field_and_never_repeat_what_was_sent(live: Live, model: str, forget: dict[str, Any], pointer: str) -> None:
    body = json.dumps({"model": model, "forget": forget})  # json, not httpx: lone surrogates must travel

    answer = live.client.post("/forget", content=body, headers={"Content-Type": "application/json"})

    assert answer.status_code == 422
    assert any(e["pointer"].startswith(pointer) for e in answer.json()["errors"]), answer.text
    assert SECRET not in answer.text and "meier" not in answer.text


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_no_numbers_are_refused(live: Live, number: str) -> None:
    body = f'{{"name": "x", "dataset": "digits", "architecture": {{"name": "convnet"}}, "target": {number}}}'

    answer = live.client.post("/models", content=body, headers={"Content-Type": "application/json"})

    assert answer.status_code == 422
    assert number not in answer.text


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_a_problem_document_too(live: Live, chunked: bool) -> None:
    piece = b" " * (1 << 20)

    answer = live.client.post("/forget", content=(piece for _ in range(66)) if chunked else piece * 66,
                              headers={"Content-Type": "application/json"})  # fmt: skip

    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert answer.headers["content-type"] == "application/problem+json"


@BOTH_FORMS
def test_the_same_idempotency_key_gives_the_same_answer_and_one_request(live: Live, data: Digits, tmp_path: Path) -> None:
    name, headers = uuid.uuid4().hex[:12], {"Idempotency-Key": uuid.uuid4().hex}
    live.upload(name, parquet(data, tmp_path / "d.parquet"))
    live.fit(name, name)
    body = {"model": name, "forget": {"kind": "samples", "ids": data.of(role="user")[:1]}}
    answers: list[httpx.Response] = []

    threads = [threading.Thread(target=lambda: answers.append(live.client.post("/forget", json=body, headers=headers))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other_body = live.client.post("/forget", json=body | {"reason": "other"}, headers=headers)
    key = live.client.post("/keys", json={"name": "second", "scopes": ["forget:create", "forget:read"]}).json()["key"]
    other_caller = httpx.post(f"{live.client.base_url}/forget", json=body, headers=headers | {"Authorization": f"Bearer {key}"})

    assert {a.status_code for a in answers} == {202}
    assert len({a.text for a in answers}) == len({a.headers["Location"] for a in answers}) == 1
    assert (other_body.status_code, other_body.json()["code"]) == (422, "idempotency_mismatch")
    assert other_caller.status_code == 202
    assert other_caller.json()["id"] != answers[0].json()["id"]


@BOTH_FORMS
def test_requests_that_wait_for_one_model_are_carried_out_by_one_job(live: Live, data: Digits, tmp_path: Path) -> None:
    name = uuid.uuid4().hex[:12]
    live.upload(name, parquet(data, tmp_path / "d.parquet"))
    live.fit(name, name)

    answers = [live.forget(name, ids=[sample]).json() for sample in data.of(role="user")[:12]]
    ended = [live.request(a["id"]) for a in answers]

    assert {e["state"] for e in ended} == {"fulfilled"}
    assert [e["dispositions"]["ids"] for e in ended] == [["forgotten"]] * 12
    assert len({e["job"] for e in ended}) < 12
    assert live.version(name)["number"] == 1 + len({e["job"] for e in ended})


@BOTH_FORMS
def test_a_job_can_be_followed_and_resumed_without_losing_or_repeating_an_event(live: Live, changed: tuple[str, Any, Any]) -> None:
    job = changed[1]["job"]

    whole = live.client.get(f"/jobs/{job}/events").text
    ids = [int(line.removeprefix("id: ")) for line in whole.splitlines() if line.startswith("id: ")]
    rest = live.client.get(f"/jobs/{job}/events", headers={"Last-Event-ID": str(ids[1])}).text
    rest_ids = [int(line.removeprefix("id: ")) for line in rest.splitlines() if line.startswith("id: ")]

    assert ids == sorted(set(ids)) and len(ids) >= 4
    assert rest_ids == ids[2:]
    assert whole.count("event: end") == rest.count("event: end") == 1
    assert "event: queued" in whole and "event: claimed" in whole and "event: done" in whole


def test_waiting_answers_as_soon_as_the_job_ends(live: Live, model: str) -> None:
    began = time.monotonic()
    answer = live.forget(model, ids=["nobody"])
    job = live.client.get(answer.headers["Location"], params={"wait": 60}).json()

    assert job["state"] == "done"
    assert time.monotonic() - began < 30


@BOTH_FORMS
def test_files_have_etags_ranges_and_digests(live: Live, model: str) -> None:
    entry = next(f for f in live.version(model)["files"] if f["name"] == "user.safetensors")
    url, get = entry["url"], live.client.get

    whole = get(url)
    digest = hashlib.sha256(whole.content).digest()
    n = len(whole.content)

    assert whole.headers["ETag"] == f'"{digest.hex()}"' == f'"{entry["sha256"]}"'
    assert whole.headers["Repr-Digest"] == f"sha-256=:{base64.b64encode(digest).decode()}:"
    assert get(url, headers={"If-None-Match": whole.headers["ETag"]}).status_code == 304
    assert get(url, headers={"If-None-Match": '"other"'}).status_code == 200
    head = live.client.head(url)
    assert (head.content, head.headers["Content-Length"], head.headers["ETag"]) == (b"", str(n), whole.headers["ETag"])
    for asked, part in {
        "bytes=0-9": slice(0, 10),
        "bytes=10-": slice(10, n),
        "bytes=-7": slice(n - 7, n),
        f"bytes=5-{n * 2}": slice(5, n),
    }.items():
        answer = get(url, headers={"Range": asked})
        assert (answer.status_code, answer.content) == (206, whole.content[part])
        assert answer.headers["Content-Range"] == f"bytes {part.start}-{part.stop - 1}/{n}"
    beyond = get(url, headers={"Range": f"bytes={n}-"})
    assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, f"bytes */{n}")
    assert get(url, headers={"Range": "bytes=0-1", "If-Range": '"other"'}).status_code == 200
    assert get(url, headers={"Range": "bytes=9-3"}).status_code == get(url, headers={"Range": "bytes=0-1,5-6"}).status_code == 200


@BOTH_FORMS
def test_a_withdrawn_version_is_gone_and_names_its_successor_but_its_certificate_stays(live: Live, changed: tuple[str, Any, Any]) -> None:
    name = changed[0]

    for file in ("user.safetensors", "core.safetensors"):
        answer = live.client.get(f"/models/{name}/versions/1/files/{file}")
        assert (answer.status_code, answer.json()["code"]) == (410, "version_withdrawn")
        assert answer.json()["successor"] == f"/models/{name}/versions/2"
        assert f"</models/{name}/versions/2/files/{file}>" in answer.headers["Link"]
    assert live.client.get(f"/models/{name}/versions/1/certificate").status_code == 200
    assert live.version(name, "1")["files"] == []
    by_digest = live.version(name, live.version(name)["digest"])
    assert by_digest == live.version(name, "2") == live.version(name)


@BOTH_FORMS
def test_keys_have_scopes_are_shown_once_and_can_be_revoked(live: Live, model: str) -> None:
    made = live.client.post("/keys", json={"name": "reader", "scopes": ["model:read"]})
    reader = httpx.Client(base_url=live.client.base_url, headers={"Authorization": f"Bearer {made.json()['key']}"})
    listed = live.client.get("/keys").json()

    may, may_not = reader.get(f"/models/{model}"), reader.get(f"/models/{model}/versions/1/files/user.safetensors")
    greedy = reader.post("/keys", json={"name": "more", "scopes": ["model:read"]})
    revoked = live.client.delete(f"/keys/{made.json()['id']}")
    after = reader.get(f"/models/{model}")
    first = next(k["id"] for k in listed if k["name"] == "first")
    last = live.client.delete(f"/keys/{first}")

    assert (made.status_code, may.status_code, may_not.status_code, greedy.status_code) == (201, 200, 403, 403)
    assert not any("key" in k for k in listed)
    assert (revoked.status_code, after.status_code) == (204, 401)
    assert (last.status_code, last.json()["code"]) == (409, "last_key")


def test_a_repeated_order_for_a_key_makes_one_key_and_shows_it_once(live: Live) -> None:
    headers, body = {"Idempotency-Key": uuid.uuid4().hex}, {"name": "once", "scopes": ["model:read"]}

    first, again = (live.client.post("/keys", json=body, headers=headers) for _ in range(2))

    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["id"] == again.json()["id"]
    assert first.json()["key"].startswith("exp_") and again.json()["key"] is None


@BOTH_FORMS
def test_lists_come_in_pages_without_gaps(live: Live, model: str) -> None:
    for _ in range(5):
        live.job(live.forget(model, ids=["nobody"]))
    seen: list[str] = []
    url: str | None = "/forget?limit=2"

    while url:
        answer = live.client.get(url)
        seen += [r["id"] for r in answer.json()["items"]]
        url = f"/forget?limit=2&after={answer.json()['next']}" if answer.json()["next"] else None
        assert ('rel="next"' in answer.headers.get("Link", "")) == (url is not None)

    assert len(seen) == len(set(seen)) == len(live.client.get("/forget?limit=1000").json()["items"]) >= 5
    assert seen == sorted(seen, reverse=True)


def test_a_queued_request_can_be_taken_back_and_a_finished_one_cannot(own_live: Live, data: Digits) -> None:
    live = own_live
    live.fit("m", "digits")
    slow = live.forget("m", ids=data.of(role="core")[:1], method="retrain").json()
    waiting = live.forget("m", ids=data.of(role="user")[:1]).json()

    cancelled = live.client.post(f"/forget/{waiting['id']}/cancel")
    running = live.client.post(f"/forget/{slow['id']}/cancel")
    job = live.end_of(f"/jobs/{slow['job']}")
    again = live.client.post(f"/forget/{slow['id']}/cancel")
    after = live.job(live.forget("m", ids=data.of(role="user")[:2]))

    assert cancelled.json()["state"] == running.json()["state"] == "cancelled"
    assert job["state"] == "cancelled"
    assert (again.status_code, again.json()["code"]) == (409, "request_ended")
    assert after["version"] == 2


def test_health_keys_log_and_openapi_answer_without_a_key(live: Live, model: str) -> None:
    open_client = httpx.Client(base_url=live.client.base_url)

    assert open_client.get("/healthz").json() == {"status": "ok"}
    assert open_client.get("/readyz").json()["status"] == "ok"
    assert "BEGIN PUBLIC KEY" in open_client.get("/.well-known/expunge-keys.json").json()["keys"][0]["pem"]
    assert open_client.get("/log/checkpoint").text.startswith("expunge/")
    assert set(open_client.get("/openapi.json").json()["paths"]) >= {"/forget", "/jobs/{job_id}", "/datasets", "/models"}


def test_the_log_proves_that_it_only_grows(live: Live, model: str) -> None:
    from expunge import merkle

    def head() -> tuple[int, bytes]:
        lines = live.client.get("/log/checkpoint").text.splitlines()
        return int(lines[1]), base64.b64decode(lines[2])

    first, first_root = head()
    live.job(live.forget(model, ids=["nobody"]))
    live.request(live.forget(model, ids=["nobody"]).json()["id"])
    second, second_root = head()
    proof = live.client.get(f"/log/proof?first={first}&size={second}").json()

    assert second > first
    path = [base64.b64decode(step) for step in proof["path"]]
    assert merkle.verify_consistency(first=first, second=second, path=path, first_root=first_root, second_root=second_root)
