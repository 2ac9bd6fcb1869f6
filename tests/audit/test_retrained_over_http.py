"""Membership beside a retraining, over HTTP: retrained cores where core rows went, refits on the same core where none did."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from expunge.client import Client
from expunge.verify import verify
from tests.digits import Digits, parquet
from tests.live import Live

FORM: dict[str, Any] = {"architecture": {"name": "convnet", "hidden": [4, 4, 6, 6]}, "training": {"epochs": 2}, "ridge": 10.0}


def told(live: Live, job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = live.client.get(f"/jobs/{job['id']}/evidence/membership.json").raise_for_status().json()
    return found


@pytest.mark.slow
def test_a_retraining_has_the_attack_before_and_after_whichever_rows_went(live: Live, data: Digits, tmp_path: Path) -> None:
    model, core, users = uuid.uuid4().hex[:12], data.of(role="core"), data.of(role="user")
    few = data.without({*core[150:], *users[150:]})
    live.upload(model, parquet(few, tmp_path / "few.parquet"))
    live.fit(model, model, **FORM)

    by_core = live.job(live.forget(model, ids=[*core[:20], *users[:10]], audits=["membership"], method="retrain"))
    anew = told(live, by_core)
    with Client(str(live.client.base_url), live.client.headers["Authorization"].split()[1]) as client:
        folder = client.download(model, out=tmp_path / "v")
        for file in live.version(model)["evidence"]:
            (folder / file["name"]).write_bytes(live.client.get(file["url"]).raise_for_status().content)
        report = verify(folder, fingerprint=client.signing_keys()[0]["fingerprint"])
    by_user = live.job(live.forget(model, ids=users[10:40], audits=["membership"], method="retrain"))
    refitted = told(live, by_user)

    assert report.ok, report.failed
    assert anew["retrained cores"] == 65 and "retraining" in anew["verdict"]
    for said in (anew, refitted):
        auc = next(f for f in said["findings"] if f["metric"] == "AUC of telling forgotten from unseen")
        assert auc["n"] == 30 and auc["reference"] is not None and auc["power"]["planted"] == 50
        assert float(auc["reference"]) > float(auc["value"])
    assert "retrained cores" not in refitted and refitted["groups"] == 128
