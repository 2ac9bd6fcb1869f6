"""Membership of linearised models over HTTP: beside the proof of a request, and as an audit of a version."""

from __future__ import annotations

import csv
import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from expunge.client import Client
from expunge.unpacking import unpack
from expunge.verify import verify as verify_version
from expunge.verify_audit import verify
from tests.audit.test_over_http import packed, said_by
from tests.digits import Digits, parquet
from tests.live import Live
from tests.service.test_forget_over_http import statement

FORM: dict[str, Any] = {
    "architecture": {"name": "convnet", "hidden": [6, 6, 8, 8]},
    "training": {"epochs": 4},
    "linearize": "all",
    "release": {"rank": 256, "sigma": 0.1},
    "ridge": 3.0,
}


USERS = 300


def fresh(live: Live, data: Digits, directory: Path, **more: Any) -> str:
    """A model of so few user samples that the planted canaries show."""
    name = uuid.uuid4().hex[:12]
    live.upload(name, parquet(data.without(set(data.of(role="user")[USERS:])), directory / f"{name}.parquet"))
    live.fit(name, name, **(FORM | more))
    return name


def test_a_request_with_a_membership_audit_has_the_attack_beside_its_proof(live: Live, data: Digits, tmp_path: Path) -> None:
    model = fresh(live, data, tmp_path)

    job = live.job(live.forget(model, ids=data.of(role="user")[:30], audits=["membership", "differencing"]))
    told = live.client.get(f"/jobs/{job['id']}/evidence/membership.json").raise_for_status().json()
    listed = live.client.get(f"/jobs/{job['id']}/evidence/membership-distances.csv").raise_for_status().text.splitlines()
    with Client(str(live.client.base_url), live.client.headers["Authorization"].split()[1]) as client:
        folder = client.download(model, out=tmp_path / "v")
        for file in live.version(model)["evidence"]:
            (folder / file["name"]).write_bytes(live.client.get(file["url"]).raise_for_status().content)
        report = verify_version(folder, fingerprint=client.signing_keys()[0]["fingerprint"])

    assert report.ok, report.failed
    assert told["shadows"] == {"held": 32, "forgotten": 32, "unseen": 100} and "proved mu" in told["verdict"]
    said = statement(live, model)["predicate"]
    assert any("mu bounds what the released weights tell" in assumed for assumed in said["assumptions"])
    assert "models that audits fit, with the forget set and without it" in [s["what"] for s in said["model"]["auxiliaryState"]]
    found = {f["metric"]: f for f in told["findings"]}
    held, own = found["AUC by shadows that have not forgotten"], found["AUC of telling forgotten from unseen"]
    assert float(held["reference"]) > float(held["null"]["limit"])  # before, they show
    assert float(held["reference"]) > float(held["value"])
    for decided in (held, own):
        assert 2 * decided["power"]["caught"] >= decided["power"]["planted"] > 0
        assert decided["answer"] == ("passed" if float(decided["value"]) <= float(decided["threshold"]) else "refused")
    told_of = {(row["rows"], row["version"], row["metric"]): row for row in csv.DictReader(listed)}
    for rows in ("forgotten", "kept", "test"):
        assert {(rows, version, "error") for version in ("before", "after", "retrained")} <= set(told_of)
    apart = {version: told_of["forgotten", version, "KL, nats, from the retrained version"] for version in ("before", "after")}
    assert float(apart["after"]["value"]) < float(apart["before"]["value"])
    weights = told_of["all", "after", "L2 of user weights from the retrained version's, of their own length"]
    assert 0 < float(weights["value"]) < 2 * float(weights["null_largest"])  # two releases' noise
    assert not any(sample in json.dumps(told) for sample in data.ids)
    assert_both_versions_are_told_of(live.client.get(f"/jobs/{job['id']}/evidence/differencing.json").raise_for_status().json(), data)


def assert_both_versions_are_told_of(told: dict[str, Any], data: Digits) -> None:
    """Of thirty samples that went by a noisy release: what both versions give away, with the noise and without, and the later one alone."""
    found = {f["metric"]: f for f in told["findings"]}
    auc, quiet = found["AUC of telling forgotten from kept"], found["AUC of telling forgotten from kept, without the noise"]
    assert told["removals"] == 8 and "mu" in told["limits"]
    assert min(float(auc["ci95"][0]), float(quiet["ci95"][0])) > float(auc["null"]["limit"])  # the change shows, through the noise too
    assert float(quiet["null"]["limit"]) < float(quiet["value"])  # of the same others, without noise
    late = found["AUC by the version after alone"]
    assert late["access"] == "outputs of the version after" and late["null"] is not None
    assert abs(float(late["value"]) - 0.5) < abs(float(auc["value"]) - 0.5)
    assert all(0.2 < float(found[metric]["null"]["mean"]) < 0.8 for metric in ("AUC of telling forgotten from kept", "AUC without labels"))
    assert {f["answer"] for f in told["findings"]} == {"reported"}
    assert not any(sample in json.dumps(told) for sample in data.ids)


@pytest.mark.slow
def test_a_decoder_is_told_of_the_version_before_of_the_release_and_of_a_retrained_one(live: Live, data: Digits, tmp_path: Path) -> None:
    model = fresh(live, data, tmp_path)

    job = live.job(live.forget(model, ids=data.of(role="user")[:40], audits=["decoder"]))
    told = live.client.get(f"/jobs/{job['id']}/evidence/decoder.json").raise_for_status().json()
    listed = live.client.get(f"/jobs/{job['id']}/evidence/decoder.csv").raise_for_status().text.splitlines()
    picture = live.client.get(f"/jobs/{job['id']}/evidence/decoder-strip.png").raise_for_status().content
    gone = [each["what"] for each in statement(live, model)["predicate"]["model"]["auxiliaryState"]]

    rows = {row["told_by"]: row for row in csv.DictReader(listed)}
    assert set(rows) == {"nothing", "thumbnail", "before", "after", "retrained", "other 1", "other 2"}
    assert picture.startswith(b"\x89PNG") and "mu" in told["verdict"] and "noise of its own" in told["retrained"]
    found = {f["metric"]: f for f in told["findings"]}
    for name in ("before", "after"):
        one = found[f"what the version {name} tells of a forgotten image beyond a retrained one, nats a dimension"]
        assert one["power"] == {"planted": 1, "caught": 1} and one["answer"] == "reported" and one["n"] == 40
        assert float(one["value"]) == pytest.approx(float(rows[name]["less_than_retrained_nats"]), rel=1e-6)
        assert abs(float(one["value"])) < 0.03 and float(one["null"]["limit"]) < 0.03
    assert len({rows[name]["bits_a_dimension"] for name in rows}) == len(rows)
    fitted = "models that audits fit, with the forget set and without it"
    assert {fitted, "pictures of forgotten samples in the evidence of an audit"} <= set(gone)


@pytest.mark.slow
def test_a_version_s_scores_stand_beside_refits_with_noise_only_where_the_version_has_it(live: Live, data: Digits, tmp_path: Path) -> None:
    model = fresh(live, data, tmp_path, release={"rank": 256, "sigma": 0.8})
    body = {"audits": ["utility", "distance", "probes", "decoder"], "attribute": "hand", "counts": {"decoder_steps": 30, "pictures": 1}}

    first = said_by(live, live.job(live.client.post(f"/models/{model}/versions/1/audit", json=body)))["predicate"]["findings"]
    live.job(live.forget(model, ids=data.of(role="user")[:30]))
    second = said_by(live, live.job(live.client.post(f"/models/{model}/versions/2/audit", json=body)))["predicate"]["findings"]

    kl = "KL, nats, from the model without any user sample"
    bare, noisy = ({f["metric"]: f for f in found} for found in (first, second))
    for found in (bare, noisy):
        scores = [f for f in found.values() if f["audit"] in ("utility", "distance", "fairness")]
        assert len(scores) > 6 and all(f["null"] is not None and "2 refits" in f["says"] for f in scores)
        drawn = [f for f in found.values() if f["audit"] == "decoder" and "other images" not in f["metric"]]
        assert len(drawn) == 3 and all(f["null"] is not None for f in drawn)
        beyond = next(f for f in drawn if f["metric"].startswith("what the version tells of an image that it was fitted on"))
        assert beyond["n"] >= 20 and "2 refits without as many others" in beyond["says"]
        assert "demographic_parity_difference" in found and found["retrainings"]["value"] == "2"
        assert len({found[f"v_information_upper95_nats{name}"]["value"] for name in ("", ".retrained_1", ".retrained_2")}) == 3
    assert float(noisy[kl]["null"]["mean"]) > 1.5 * float(bare[kl]["null"]["mean"]) > 0  # two draws of noise lie between refits of releases


@pytest.mark.slow
def test_of_a_model_without_a_network_refits_on_halves_stand_beside_the_probes_of_its_answers(live: Live, data: Digits) -> None:
    live.upload("plain", parquet(data, live.directory / "plain.parquet"))
    live.fit("plain", "plain", architecture={"name": "linear"}, core="none", range=255.0, ridge=30.0, classes=list(range(10)))

    job = live.job(live.client.post("/models/plain/versions/1/audit", json={"audits": ["probes"], "attribute": "hand"}))
    found = {f["metric"]: f for f in said_by(live, job)["predicate"]["findings"]}
    live.job(live.client.post("/forget", json={"model": "plain", "forget": {"kind": "everything"}}))
    job = live.job(live.client.post("/models/plain/versions/2/audit", json={"audits": ["utility", "distance"]}))
    bare = said_by(live, job)["predicate"]["findings"]

    assert found["retrainings"]["value"] == "2" and found["v_information_upper95_nats"]["access"] == "served outputs"
    assert len({found[f"v_information_upper95_nats{name}"]["value"] for name in ("", ".retrained_1", ".retrained_2")}) == 3
    assert all(f["null"] is None and "no two halves" in f["says"] for f in bare)


@pytest.mark.slow
def test_a_version_is_attacked_without_a_threshold_and_the_statement_verifies(live: Live, data: Digits, tmp_path: Path) -> None:
    model = fresh(live, data, tmp_path)

    body = {"audits": ["membership"], "counts": {"shadow_groups": 32, "targets": 40}}
    job = live.job(live.client.post(f"/models/{model}/versions/1/audit", json=body))
    folder, said = unpack(packed(live, job), tmp_path / "evidence"), said_by(live, job)["predicate"]
    report = verify(folder, fingerprint=live.client.get("/.well-known/expunge-keys.json").json()["keys"][0]["fingerprint"])

    assert report.ok, report.failed
    attack = [f for f in said["findings"] if f["power"]]
    assert {f["answer"] for f in attack} == {"reported"} and all(f["threshold"] is None for f in attack)
    auc = next(f for f in attack if f["metric"].startswith("AUC"))
    assert float(auc["value"]) > float(auc["null"]["limit"]) and auc["n"] == 40
    assert {p.name for p in folder.iterdir()} >= {"membership-roc.svg", "membership-roc.csv", "membership-distances.csv"}
    assert said["policy"]["document"]["audits"]["membership"]["linearised"] == {"seen": 32, "unseen": 100}


def test_where_nothing_can_be_estimated_the_evidence_says_why_and_the_samples_are_forgotten(
    live: Live, data: Digits, tmp_path: Path
) -> None:
    model, users = fresh(live, data, tmp_path), data.of(role="user")

    few = live.job(live.forget(model, ids=users[:3], audits=["membership"]))
    rest = live.job(live.forget(model, ids=users[3:USERS], audits=["membership"]))

    for job in (few, rest):
        assert set(live.client.get(f"/jobs/{job['id']}/evidence/membership.json").raise_for_status().json()) == {"withheld"}
