"""Every command does what it says, and with --json standard output is JSON and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cli.conftest import Site

pytestmark = pytest.mark.xdist_group("cli")


@pytest.fixture(scope="module")
def forgotten(site: Site) -> dict[str, Any]:
    """A request by file, id and subject, carried out; one of its samples is unknown, one belongs to the core."""
    (site.work / "ids.txt").write_text(f"{site.ids('user')[0]}\nnobody\n")
    return dict(site.json("forget", "digits", "--ids-file", "ids.txt", "--subject", "person-02", "--reason", "gdpr-17", "--wait"))


def test_what_was_uploaded_and_fitted_is_listed_and_shown(site: Site) -> None:
    assert "digits" in [d["name"] for d in site.json("dataset", "list")]
    assert site.json("dataset", "show", "digits")["summary"]["rows"] == 1797
    assert site.json("model", "show", "digits")["state"] == "ready"
    assert "748 core, 749 user, 300 audit" in site.run("dataset", "show", "digits").stdout
    assert "convnet" in site.run("model", "list").stdout
    assert {job["kind"] for job in site.json("jobs", "list")} >= {"validate", "fit"}


def test_a_data_set_and_a_model_are_made_and_waited_for(site: Site) -> None:
    uploaded = site.json("dataset", "upload", str(site.data), "--name", "again", "--wait")
    (site.work / "spec.json").write_text(json.dumps({"architecture": {"hidden": [16]}, "training": {"batch": 32}, "ridge": 10.0}))

    model = site.json("model", "create", "--name", "again", "--dataset", "again", "--architecture", "mlp", "--spec", "spec.json",
                      "--epochs", "2", "--seed", "4", "--wait")

    assert uploaded["state"] == "ready"
    assert model["latest_certified"] == 1
    assert model["spec"]["architecture"] | {"name": "mlp", "hidden": [16]} == model["spec"]["architecture"]
    assert (model["spec"]["training"]["epochs"], model["spec"]["training"]["batch"], model["spec"]["training"]["seed"]) == (2, 32, 4)


def test_forgetting_answers_what_became_of_every_sample(site: Site, forgotten: dict[str, Any]) -> None:
    assert forgotten["state"] == "fulfilled"
    assert forgotten["dispositions"]["ids"] == ["forgotten", "not_found"]
    assert forgotten["dispositions"]["counts"]["not_found"] == 1
    assert site.json("requests", "show", forgotten["id"])["state"] == "fulfilled"
    assert forgotten["id"] in [r["id"] for r in site.json("requests", "list", "--model", "digits", "--state", "fulfilled")]
    assert site.json("jobs", "watch", forgotten["job"])["state"] == "done"
    assert site.json("jobs", "show", forgotten["job"])["version"] == forgotten["version"]


def test_the_same_idempotency_key_is_acted_upon_once(site: Site) -> None:
    asked = ("forget", "digits", "--id", site.ids("user")[1], "--idempotency-key", "once")

    first, second = site.json(*asked), site.json(*asked)

    assert first["id"] == second["id"]
    site.run("jobs", "watch", first["job"])


def test_a_request_of_which_something_is_left_exits_1_and_says_what_to_do(site: Site) -> None:
    done = site.run("forget", "digits", "--id", site.ids("core")[0], "--id", site.ids("user")[2], "--wait", check=1)

    assert "partial" in done.stdout
    assert "--method retrain" in done.stdout
    assert f"{site.ids('core')[0]}: core_sample" in done.stdout


def test_where_takes_text_numbers_and_truth_and_a_value_of_another_type_is_refused(site: Site) -> None:
    rows, draw = 60, np.random.default_rng(5).normal(size=(60, 3)).astype(np.float32)
    table = pa.table({
        "sample_id": [f"r{i}" for i in range(rows)], "role": ["core", "user", "user"] * 20, "label": ["1", "1", "2", "2", "2", "1"] * 10,
        "attr_sex": ["f", "m"] * 30, "attr_age": pa.array([20 + i // 2 for i in range(rows)], pa.int64()), "attr_ok": [True] * 59 + [False],
        "features": pa.FixedSizeListArray.from_arrays(draw.reshape(-1), 3)})
    pq.write_table(table, site.work / "people.parquet")
    site.run("dataset", "upload", "people.parquet", "--name", "people", "--wait")
    site.run("model", "create", "--name", "people", "--dataset", "people", "--architecture", "mlp", "--epochs", "1", "--wait")

    def forgotten(*asked: str) -> int:
        done = site.run("forget", "people", *asked, "--wait", "--json")
        return int(json.loads(done.stdout)["dispositions"]["counts"].get("forgotten", 0))

    for text in ("age=20.5", "age=old", "sex=1", "ok=1"):
        assert "must be" in site.run("forget", "people", "--where", text, check=1).stderr
    assert forgotten("--where", f"age={10**30}") == 0  # a whole number that no row has
    assert forgotten("--where", "age=20", "--where", "sex=m") == 1  # of rows 0 and 1, the second: the first is the core's
    assert forgotten("--where", "ok=false") == 1
    assert site.run("forget", "people", "--where", "age=99", "--wait").stdout.count("Nothing matched") == 1
    refused = site.run("forget", "people", "--label", "1", "--wait", check=1)  # a text label that looks like a number
    assert "core_sample" in refused.stdout


def test_a_downloaded_version_is_verified_and_a_receipt_fits_its_certificate(site: Site, tmp_path: Path) -> None:
    sample = site.ids("user")[3]
    request = site.json("forget", "digits", "--id", sample, "--wait")
    address = f"{site.url}/models/digits/versions/{request['version']}"

    downloaded = site.json("download", "digits", "--out", str(tmp_path / "v"))
    verified = site.json("verify", str(tmp_path / "v"), "--fingerprint", site.fingerprint)
    receipt = site.json("receipt", request["id"], "--id", sample, "--verify", str(tmp_path / "v"))
    other = site.run("receipt", request["id"], "--id", "somebody-else", "--verify", str(tmp_path / "v"), check=1)

    assert len(downloaded["files"]) == 9
    assert verified["ok"] and len(verified["steps"]) == 7
    assert site.json("verify", address, "--fingerprint", site.fingerprint)["ok"]
    assert receipt["receipts"][0]["in_forget_set"]
    assert "NOT in the forget set" in other.stdout
    assert str(request["version"]) in [str(v["number"]) for v in site.json("versions", "digits")]


def test_a_receipt_is_not_checked_against_the_certificate_of_another_request(site: Site, forgotten: dict[str, Any], tmp_path: Path) -> None:
    site.json("forget", "digits", "--id", site.ids("user")[4], "--wait")
    site.run("download", "digits", "--out", str(tmp_path / "v"))

    done = site.run("receipt", forgotten["id"], "--id", site.ids("user")[0], "--verify", str(tmp_path / "v"), check=1)

    assert "certificate of other requests" in done.stderr


def test_keys_are_made_listed_and_revoked(site: Site) -> None:
    made = site.json("key", "new", "auditor", "--scope", "model:read")
    refused = site.run("key", "list", check=1, EXPUNGE_API_KEY=made["key"])
    site.run("key", "revoke", made["id"])
    gone = site.run("jobs", "list", check=1, EXPUNGE_API_KEY=made["key"])

    assert "lacks the scope model:admin" in refused.stderr
    assert next(k for k in site.json("key", "list") if k["id"] == made["id"])["revoked_at"]
    assert "Set EXPUNGE_API_KEY" in gone.stderr


def test_an_ended_request_cannot_be_cancelled(site: Site, forgotten: dict[str, Any]) -> None:
    done = site.run("requests", "cancel", forgotten["id"], check=1)

    assert "The request has ended" in done.stderr
