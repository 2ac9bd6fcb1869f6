"""Audits of a version over HTTP: measured, signed, verified offline; void where the audit cannot see; nothing of the model changes."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from expunge.unpacking import unpack
from expunge.verify_audit import verify
from tests.live import Live

QUICK = {"shadow_groups": 32, "targets": 40, "decoder_steps": 30, "pictures": 2}


def ask(live: Live, model: str, audits: list[str], **more: Any) -> dict[str, Any]:
    answer = live.client.post(f"/models/{model}/versions/1/audit", json={"audits": audits, "counts": QUICK} | more)
    return live.job(answer)


def said_by(live: Live, job: dict[str, Any]) -> dict[str, Any]:
    bundle = live.client.get(f"/jobs/{job['id']}/certificate").raise_for_status().content
    statement: dict[str, Any] = json.loads(base64.b64decode(json.loads(bundle)["dsseEnvelope"]["payload"]))
    return statement


def packed(live: Live, job: dict[str, Any]) -> bytes:
    return live.client.get(f"/jobs/{job['id']}/evidence").raise_for_status().content


def test_an_audit_changes_nothing_and_its_statement_and_evidence_verify_offline(live: Live, tmp_path: Path) -> None:
    live.fit("audited", "digits")
    before = live.version("audited")

    job = ask(live, "audited", ["utility", "distance", "membership", "decoder"])
    folder = unpack(packed(live, job), tmp_path / "evidence")
    fingerprint = live.client.get("/.well-known/expunge-keys.json").json()["keys"][0]["fingerprint"]
    report, said = verify(folder, fingerprint=fingerprint), said_by(live, job)["predicate"]

    assert report.ok, report.failed
    assert live.version("audited") == before
    assert {found["audit"] for found in said["findings"]} == {"utility", "distance", "membership", "decoder"}
    assert {s["digest"]["sha256"] for s in said_by(live, job)["subject"]} >= {before["files"][0]["sha256"]}
    assert said["model"]["statement"]["sha256"] == before["digest"]
    assert "guarantee" not in said and any("never proves" in told for told in said["limitations"])
    assert {p.name for p in folder.iterdir()} >= {"membership-roc.svg", "membership-roc.csv", "decoder.csv", "decoder-strip.png"}
    accuracy = next(f for f in said["findings"] if f["metric"] == "accuracy")
    counted = before["utility"][0]["after"]
    assert float(accuracy["value"]) == pytest.approx(counted["correct"] / counted["n"])
