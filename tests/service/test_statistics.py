"""What an auditor may fetch: the sums that the certificate names by digest, of the latest version, and nobody else's."""

from __future__ import annotations

import hashlib
import threading
import uuid
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
from safetensors.numpy import load as load_tensors

from service.auth import SCOPES
from tests.digits import Digits, parquet
from tests.live import Live
from tests.service.test_forget_over_http import statement


@pytest.fixture(scope="module")
def model(live: Live, data: Digits, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that forgets in some of these tests."""
    name = uuid.uuid4().hex[:12]
    live.upload(name, parquet(data, tmp_path_factory.mktemp("statistics") / "d.parquet"))
    live.fit(name, name)
    return name


def with_scopes(live: Live, *scopes: str) -> httpx.Client:
    key = live.client.post("/keys", json={"name": "auditor", "scopes": list(scopes)}).json()["key"]
    return httpx.Client(base_url=live.client.base_url, headers={"Authorization": f"Bearer {key}"})


def certified(live: Live, model: str) -> str:
    return str(statement(live, model)["predicate"]["guarantee"][0]["value"]["statistics"]["sha256"])


def digest(sums: dict[str, np.ndarray]) -> str:
    return hashlib.sha256(sums["A"].astype("<i8").tobytes() + sums["B"].astype("<i8").tobytes()).hexdigest()


def test_the_sums_have_the_digest_that_the_latest_certificate_names(live: Live, data: Digits, model: str) -> None:
    auditor, users = with_scopes(live, "model:admin"), data.of(role="user")
    before, digest_before = auditor.get(f"/models/{model}/statistics"), certified(live, model)

    live.request(live.forget(model, ids=users[:3]).json()["id"])
    after = load_tensors(auditor.get(f"/models/{model}/statistics").content)

    sums = load_tensors(before.content)
    d = len(sums["A"])
    assert {name: (str(t.dtype), t.shape) for name, t in sums.items()} == {
        "A": ("int64", (d, d)), "B": ("int64", (d, 10)), "rows": ("int64", ())}  # fmt: skip
    assert (int(sums["rows"]), int(after["rows"])) == (len(users), len(users) - 3)
    assert digest(sums) == digest_before != certified(live, model)
    assert digest(after) == certified(live, model)


def test_they_are_served_as_files_are_but_never_kept_by_a_cache(live: Live, model: str) -> None:
    url, get = f"/models/{model}/statistics", live.client.get

    whole = get(url)
    part = get(url, headers={"Range": "bytes=8-19"})

    assert whole.headers["ETag"] == f'"{hashlib.sha256(whole.content).hexdigest()}"'
    assert (part.status_code, part.content) == (206, whole.content[8:20])
    assert get(url, headers={"If-None-Match": whole.headers["ETag"]}).status_code == 304
    assert whole.headers["Cache-Control"] == "private, no-store"


def test_every_scope_but_the_administrators_is_refused(live: Live, model: str) -> None:
    others = with_scopes(live, *(scope for scope in SCOPES if scope != "model:admin"))

    answer = others.get(f"/models/{model}/statistics")
    anonymous = httpx.get(f"{live.client.base_url}/models/{model}/statistics")

    assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")
    assert "model:admin" in answer.json()["detail"]
    assert anonymous.status_code == 401


def test_no_model_no_version_yet_and_no_other_address_are_not_found(live: Live, model: str) -> None:
    waiting = uuid.uuid4().hex[:12]
    body = {"name": waiting, "dataset": "digits", "architecture": {"name": "convnet"}, "core": "upload"}
    assert live.client.post("/models", json=body).status_code == 202
    places = {
        "/models/none/statistics": "model_not_found",
        f"/models/{waiting}/statistics": "version_not_found",
        f"/models/{model}/versions/1/statistics": "not_found",
        f"/models/{model}/versions/@latest-certified/files/statistics": "file_not_found",
    }

    answers = {place: live.client.get(place) for place in places}

    assert {place: (a.status_code, a.json()["code"]) for place, a in answers.items()} == {p: (404, code) for p, code in places.items()}


def test_a_file_whose_key_is_destroyed_is_gone(own_live: Live) -> None:
    live = own_live
    live.fit("m", "digits")
    places = ["/models/m/statistics", "/models/m/versions/1/files/user.safetensors"]
    before = [live.client.get(place).status_code for place in places]

    for key in (live.directory / "data" / "keys" / "blobs").iterdir():
        key.unlink()
    after = [live.client.get(place) for place in places]

    assert before == [200, 200]
    assert [(a.status_code, a.json()["code"]) for a in after] == [(410, "file_destroyed")] * 2


def test_whoever_reads_while_samples_are_forgotten_gets_whole_sums_or_none(live: Live, data: Digits, tmp_path: Path) -> None:
    name, seen, ended = uuid.uuid4().hex[:12], list[httpx.Response](), threading.Event()
    live.upload(name, parquet(data, tmp_path / "d.parquet"))
    live.fit(name, name)
    published = {certified(live, name)}

    def read() -> None:
        with httpx.Client(base_url=live.client.base_url, headers=live.client.headers) as client:
            while not ended.is_set():
                with suppress(httpx.RemoteProtocolError):  # cut off: the sums were destroyed while they were sent
                    seen.append(client.get(f"/models/{name}/statistics"))

    reader = threading.Thread(target=read)
    reader.start()
    for sample in data.of(role="user")[:4]:
        live.request(live.forget(name, ids=[sample]).json()["id"])
        published.add(certified(live, name))
    ended.set()
    reader.join()

    assert {a.status_code for a in seen} <= {200, 410}
    assert {digest(load_tensors(a.content)) for a in seen if a.status_code == 200} <= published
    assert len({a.headers["ETag"] for a in seen if a.status_code == 200}) > 1


def test_the_contract_names_the_file_the_scope_and_the_refusals(live: Live) -> None:
    said = live.client.get("/openapi.json").json()["paths"]["/models/{name}/statistics"]["get"]

    assert said["responses"]["200"]["content"] == {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    assert {"403", "404", "410"} <= set(said["responses"])
    assert "model:admin" in said["responses"]["403"]["description"]
