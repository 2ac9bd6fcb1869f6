"""Audits of a request beside the proof: a decoder told of both versions, and pictures that go with the version before."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path
from typing import get_args

import pytest

from expunge import dsse
from service import auditing
from service.problem import Problem
from service.schemas import RequestAudit
from tests.digits import Digits
from tests.live import Live
from workers.beside import AUDITS, SHARES


def test_audits_that_a_request_may_ask_for_are_the_audits_there_are() -> None:
    assert list(get_args(RequestAudit)) == list(AUDITS) == list(SHARES)


@pytest.mark.slow
def test_the_decoder_stands_beside_its_null_and_its_pictures_go_with_the_version_before(
    tmp_path: Path, upload: bytes, data: Digits
) -> None:
    live = Live(tmp_path, rollback_days="0.0002")  # 17 seconds
    live.upload("digits", upload)
    live.fit("redrawn", "digits")

    job = live.job(live.forget("redrawn", ids=data.of(role="user")[:40], audits=["decoder"]))
    there = f"/jobs/{job['id']}/evidence/decoder-strip.png"
    first = live.client.get(there)
    told = json.loads(live.client.get(f"/jobs/{job['id']}/evidence/decoder.json").raise_for_status().content)
    listed = list(csv.DictReader(live.client.get(f"/jobs/{job['id']}/evidence/decoder.csv").text.splitlines()))
    late = time.monotonic() + 60
    while live.client.get(there).status_code == 200 and time.monotonic() < late:
        time.sleep(0.5)
    last, version = live.client.get(there), live.version("redrawn")
    certificate = live.client.get(f"/jobs/{job['id']}/certificate").content
    live.stop()

    saved = told["findings"][0]
    rows = {row["told_by"]: row for row in listed}
    assert first.content.startswith(b"\x89PNG") and last.status_code == 404
    assert {file["name"] for file in version["evidence"]} == {"decoder.json", "decoder.csv"}
    assert saved["answer"] == "reported" and saved["power"] == {"planted": 1, "caught": 1}
    assert "a planted thumbnail of the image saves" in saved["says"]
    assert float(saved["null"]["limit"]) < 0.02  # one decoder told of several refits: its own luck is in all of them
    assert float(saved["ci95"][0]) <= float(saved["value"]) <= float(saved["ci95"][1])
    assert float(saved["null"]["limit"]) >= abs(float(saved["null"]["mean"]))
    assert set(rows) == {"nothing", "before", "after", "thumbnail", "retrained", *(f"other {number}" for number in range(1, 5))}
    assert rows["retrained"]["bits_a_dimension"] == rows["after"]["bits_a_dimension"] and "hash" in told["retrained"]
    assert float(rows["before"]["less_than_after_nats"]) == pytest.approx(float(saved["value"]), rel=1e-6)
    assert b"pictures of forgotten samples" in dsse.read(certificate).payload
    assert any(phase == "audit: decoder" for phase in job["seconds"])


@pytest.mark.parametrize("shape", [[14], [2, 8, 8], [1, 8, 65]])
def test_a_decoder_of_what_it_cannot_redraw_is_refused_with_what_it_can(shape: list[int]) -> None:
    auditing.redrawn([3, 64, 64])

    with pytest.raises(Problem) as refused:
        auditing.redrawn(shape)

    assert refused.value.code == "audit_unsupported" and "64 pixels" in str(refused.value.detail)
