"""Audits over HTTP: powers, nulls and words; pictures that go with what is forgotten; statements that cannot be bent."""

from __future__ import annotations

import base64
import csv
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from expunge import audited, canonical, dsse
from expunge.client import Client
from expunge.unpacking import unpack
from expunge.verify import verify as verify_version
from expunge.verify_audit import verify
from tests.digits import Digits
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
    redrawn = next(f for f in said["findings"] if f["metric"].startswith("what the version tells of an image that it was fitted on"))
    assert redrawn["n"] == 200 and redrawn["power"]["planted"] == 1 and redrawn["null"] is not None
    told_of = {f["metric"]: f for f in said["findings"] if f["audit"] == "decoder"}
    beside = [told_of[metric] for metric in ("information about the image, nats a dimension", "bits a dimension, told what is served")]
    rows = {row["told"]: row for row in csv.DictReader((folder / "decoder.csv").read_text().splitlines())}
    for found, column in zip(beside, ("gain_nats", "bits_a_dimension"), strict=True):
        again = [float(rows[f"retrained {number}"][column]) for number in (1, 2)]
        assert len({found["value"], *(rows[f"retrained {number}"][column] for number in (1, 2))}) == 3
        assert [float(found["null"][end]) for end in ("mean", "limit")] == pytest.approx([sum(again) / 2, max(again)], rel=1e-6)
    accuracy = next(f for f in said["findings"] if f["metric"] == "accuracy")
    counted = before["utility"][0]["after"]
    assert float(accuracy["value"]) == pytest.approx(counted["correct"] / counted["n"])
    assert_a_null_beside_each_score([f for f in said["findings"] if f["audit"] in ("utility", "distance")], folder)


def assert_a_null_beside_each_score(found: list[dict[str, Any]], folder: Path) -> None:
    """Refits on halves of the user samples: as good as the version, and less far from each other than user samples moved its answers."""
    listed = {row["metric"]: row for row in csv.DictReader((folder / "utility.csv").read_text().splitlines())}
    assert all(f["null"] is not None and "random half" in f["says"] for f in found)
    utility = {f["metric"]: f for f in found if f["audit"] == "utility"}
    assert set(listed) == set(utility) >= {"accuracy", "calibration error"}
    for metric, row in listed.items():
        assert [row["null_mean"], row["null_largest"]] == [utility[metric]["null"][end] for end in ("mean", "limit")]
        assert float(row["null_smallest"]) <= float(row["null_mean"]) <= float(row["null_largest"])
    assert float(listed["calibration error"]["null_smallest"]) < float(listed["calibration error"]["null_largest"])
    assert abs(float(listed["accuracy"]["null_mean"]) - float(listed["accuracy"]["value"])) < 0.03
    kl = next(f for f in found if f["metric"].startswith("KL"))
    assert 0 < float(kl["null"]["mean"]) <= float(kl["null"]["limit"]) < float(kl["value"])


def test_any_changed_file_of_an_audit_is_refused_by_the_step_that_is_about_it(live: Live, tmp_path: Path) -> None:
    live.fit("changed", "digits")
    job = ask(live, "changed", ["utility"])
    folder = unpack(packed(live, job), tmp_path / "evidence")
    failing = {}

    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        path.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
        found = verify(folder).failed
        failing[path.name] = found.name if found else None
        path.write_bytes(whole)
    (folder / "more.txt").write_text("x")

    assert failing["findings.json"] == "digests of the evidence"
    assert None not in failing.values()
    spare = verify(folder).failed
    (folder / "more.txt").unlink()
    (folder / "utility.svg").rename(tmp_path / "utility.svg")
    (folder / "utility.svg").symlink_to(tmp_path / "utility.svg")
    link = verify(folder).failed
    (folder / "inclusion.json").unlink()
    missing = verify(folder).failed

    assert spare is not None and "unexpected" in spare.detail
    assert link is not None and link.detail == "not a plain file: utility.svg"
    assert missing is not None and missing.detail == "missing: inclusion.json"


def test_membership_sees_planted_canaries_or_is_void_and_says_so_in_words(live: Live) -> None:
    live.fit("members", "digits")

    said = said_by(live, ask(live, "members", ["membership"]))["predicate"]

    compared = {f["metric"]: f for f in said["findings"] if f["null"] and not f["power"]}
    assert {f"error: {rows} rows, {name}" for rows in ("attacked", "kept", "test") for name in ("as it is", "retrained")} <= set(compared)
    assert float(compared["KL, nats, from the retrained version: attacked rows, as it is"]["value"]) > 0
    assert float(compared["steps to learn again: attacked rows, retrained"]["value"]) > 0
    told = [f for f in said["findings"] if f["power"]]
    assert all(f["null"] is not None for f in told) and {f["metric"] for f in told} >= {"TPR at FPR 0.01", "TPR at FPR 0.001"}
    for found in told:
        blind = 2 * found["power"]["caught"] < found["power"]["planted"]
        assert (found["answer"] == "void") or not blind
        assert ("void" in found["says"]) == (found["answer"] == "void")


def test_probes_of_an_attribute_that_can_be_read_are_refused(live: Live) -> None:
    live.fit("read", "digits")

    job = live.job(live.client.post("/models/read/versions/1/audit", json={"audits": ["probes"], "attribute": "hand"}))
    said = said_by(live, job)["predicate"]

    listed = list(csv.DictReader(live.client.get(f"/jobs/{job['id']}/evidence/probes.csv").raise_for_status().text.splitlines()))
    scores = {f["metric"]: f for f in said["findings"] if f["null"]}
    decided = [f for f in said["findings"] if f["threshold"] is not None]
    fair = {name: scores.pop(name) for name in list(scores) if scores[name]["audit"] == "fairness"}
    assert scores.pop("leakage_interval.lower")["audit"] == "interval"
    assert "demographic_parity_difference" in fair and all(0 <= float(f["value"]) <= 1 for f in fair.values())
    assert set(scores) == {"v_information_upper95_nats"} | {
        f"{reader}.{what}" for reader in ("linear", "mlp", "trees")
        for what in ("v_information_nats", "balanced_accuracy", "conditional_on_label_nats")
    }  # fmt: skip
    for row in listed:
        told = scores[f"{row['probe']}.v_information_nats"]
        assert (row["null_mean"], row["null_largest"], row["null_deals"]) == (told["null"]["mean"], told["null"]["limit"], "5")
        assert float(row["null_largest"]) < 0.1 and "dealt out anew" in told["says"]
    assert len(decided) == 1 and decided[0]["power"]["planted"] == 2
    again = {f["metric"]: f for f in said["findings"] if "retrained_" in f["metric"]}
    uppers = [again[f"v_information_upper95_nats.retrained_{number}"] for number in (1, 2)]
    assert "fitting again" in job["seconds"]
    assert len(again) == 4 and all(f["reference"] == decided[0]["value"] for f in uppers)
    assert [f["value"] for f in said["findings"] if f["metric"] == "retrainings"] == ["2"]
    assert len({decided[0]["value"], *(f["value"] for f in uppers)}) == 3  # three trainings, none the same as another
    assert {row["retrainings"] for row in listed} == {"2"}
    ends = {f["metric"]: f for f in said["findings"] if f["audit"] == "interval"}
    lower, upper = (ends[f"leakage_interval.{end}"] for end in ("lower", "upper"))
    assert lower["null"] is not None and upper["null"] is None  # H(v) is no score
    assert float(lower["value"]) <= float(upper["value"]) <= np.log(2) + 1e-8 and upper["access"] == "weights: H(v) (trivial)"
    assert said["answer"] in ("refused", "void")  # a hundred balanced rows cannot certify so little of a random attribute


def test_the_picture_shows_audit_images_and_goes_when_anything_is_forgotten(live: Live, data: Digits, tmp_path: Path) -> None:
    live.fit("pictured", "digits")
    job = ask(live, "pictured", ["decoder"])
    names = zipfile.ZipFile(io.BytesIO(packed(live, job))).namelist()
    picture = live.client.get(f"/jobs/{job['id']}/evidence/decoder-strip.png").raise_for_status().content
    scale = 12
    sheet = np.asarray(Image.open(io.BytesIO(picture)))[scale // 2 :: scale, scale // 2 :: scale]
    shown = sheet[2:10, 2:10]
    audit_images = [data.images[data.ids.index(i)] for i in data.of(role="audit")]

    live.job(live.forget("pictured", ids=[data.of(role="user")[0]]))
    after = zipfile.ZipFile(io.BytesIO(packed(live, job))).namelist()
    folder = unpack(packed(live, job), tmp_path / "evidence")

    assert "decoder-strip.png" in names and "decoder-strip.png" not in after
    assert live.client.get(f"/jobs/{job['id']}/evidence/decoder-strip.png").status_code == 404
    assert any(np.array_equal(shown, image) for image in audit_images)
    assert verify(folder).failed is None


def test_a_withdrawn_version_and_impossible_audits_are_refused_with_the_way_out(live: Live, data: Digits) -> None:
    live.fit("gone", "digits")
    live.job(live.forget("gone", ids=[data.of(role="user")[1]]))
    answers = {
        name: live.client.post(f"/models/gone/versions/{version}/audit", json=body)
        for name, version, body in (
            ("version_withdrawn", "1", {"audits": ["utility"]}),
            ("attribute_unknown", "2", {"audits": ["probes"], "attribute": "mood"}),
            ("validation", "2", {"audits": ["probes"]}),
            ("validation ", "2", {"audits": []}),
        )
    }

    assert answers["version_withdrawn"].status_code == 409 and answers["version_withdrawn"].json()["code"] == "version_withdrawn"
    assert answers["attribute_unknown"].status_code == 422 and answers["attribute_unknown"].json()["code"] == "attribute_unknown"
    assert answers["validation"].status_code == answers["validation "].status_code == 422


def test_forgetting_with_a_membership_audit_shows_the_attack_before_and_the_null_after(live: Live, data: Digits) -> None:
    live.fit("attacked", "digits")

    job = live.job(live.forget("attacked", ids=data.of(role="user")[:30], audits=["membership"]))
    told = json.loads(live.client.get(f"/jobs/{job['id']}/evidence/membership.json").raise_for_status().content)
    listed = live.client.get(f"/jobs/{job['id']}/evidence/membership-distances.csv").raise_for_status().text.splitlines()
    names = {file["name"] for file in live.version("attacked")["evidence"]}

    found = {f["metric"]: f for f in told["findings"]}
    auc = found["AUC of telling forgotten from unseen"]
    assert float(auc["reference"]) > float(auc["value"])  # before against after
    assert float(auc["reference"]) > float(auc["null"]["limit"])
    assert 2 * auc["power"]["caught"] >= auc["power"]["planted"] and auc["answer"] != "void"
    assert names >= {"membership-before-roc.svg", "membership-before-roc.csv", "membership-after-roc.csv", "membership-errors.svg"}
    told_of = {(row["rows"], row["version"], row["metric"]): row for row in csv.DictReader(listed)}
    for rows in ("forgotten", "kept", "test"):
        assert told_of[rows, "after", "error"] == told_of[rows, "retrained", "error"] | {"version": "after"}
        apart = {version: float(told_of[rows, version, "KL, nats, from the retrained version"]["value"]) for version in ("before", "after")}
        assert apart["after"] == 0.0 < apart["before"]  # the retrained version is fitted from the rows, not from the removal's sums
    metric = "L2 of user weights from the retrained version's, of their own length"
    weights = [told_of["all", version, metric] for version in ("before", "after")]
    assert float(weights[0]["value"]) > float(weights[1]["value"]) == 0.0 < float(weights[1]["null_mean"])
    steps = {version: told_of["forgotten", version, "steps to learn again"] for version in ("after", "retrained")}
    assert steps["after"]["value"] == steps["retrained"]["value"] != "0" and float(steps["after"]["null_mean"]) > 0
    assert not any(sample in json.dumps(told) for sample in data.ids)


def test_who_holds_both_versions_is_told_of_beside_removals_of_others_and_the_limits_in_words(live: Live, data: Digits) -> None:
    live.fit("both", "digits")

    job = live.job(live.forget("both", ids=data.of(role="user")[100:140], audits=["differencing"]))
    told = json.loads(live.client.get(f"/jobs/{job['id']}/evidence/differencing.json").raise_for_status().content)
    listed = live.client.get(f"/jobs/{job['id']}/evidence/differencing.csv").raise_for_status().text.splitlines()

    found = {f["metric"]: f for f in told["findings"]}
    auc = found["AUC of telling forgotten from kept"]
    low, high = map(float, auc["ci95"])
    assert low <= float(auc["value"]) <= high
    assert low > float(auc["null"]["limit"])  # forty digits that go show; they do not where forty others go
    assert abs(float(auc["null"]["mean"]) - 0.5) < 0.2
    assert auc["answer"] == "reported" and "withdrawn" in told["limits"]
    late = found["AUC by the version after alone"]
    assert abs(float(late["value"]) - 0.5) < abs(float(auc["value"]) - 0.5)  # what withdrawal leaves
    assert float(late["null"]["mean"]) < float(late["value"])  # of rows that it was fitted on it knows more
    assert listed[0].startswith("metric,fpr,value,low,high,null_mean") and listed[1].startswith(f"auc,,{auc['value']},")
    assert not any(sample in json.dumps(told) for sample in data.ids)


def test_the_certificate_names_each_file_of_evidence_and_verify_checks_those_that_are_there(
    live: Live, data: Digits, tmp_path: Path
) -> None:
    live.fit("named", "digits")
    live.job(live.forget("named", ids=data.of(role="user")[150:180], audits=["differencing"]))
    token = live.client.headers["Authorization"].removeprefix("Bearer ")
    with Client(str(live.client.base_url), token) as client:
        folder = client.download("named", out=tmp_path / "version")
    without = verify_version(folder)

    for name in ("differencing.json", "differencing.csv"):
        version = live.version("named")
        url = next(file["url"] for file in version["evidence"] if file["name"] == name)
        (folder / name).write_bytes(live.client.get(url).raise_for_status().content)
    beside = verify_version(folder)
    (folder / "differencing.csv").write_bytes(b"auc,0.5")
    changed = verify_version(folder).failed
    (folder / "differencing.csv").unlink()
    (folder / "other.csv").write_bytes(b"auc,0.5")
    spare = verify_version(folder).failed

    assert without.failed is None and beside.failed is None
    assert "of 2 files of evidence 2 are here" in next(step.detail for step in beside.steps if step.name == "digests of every file")
    assert changed is not None and changed.name == "digests of every file" and "differencing.csv" in changed.detail
    assert spare is not None and "unexpected" in spare.detail


def test_an_attack_on_a_few_forgotten_samples_is_withheld(live: Live, data: Digits) -> None:
    live.fit("few", "digits")

    job = live.job(live.forget("few", ids=data.of(role="user")[:3], audits=["membership", "differencing"]))

    for audit in ("membership", "differencing"):
        assert set(live.client.get(f"/jobs/{job['id']}/evidence/{audit}.json").raise_for_status().json()) == {"withheld"}
    assert live.forget("few", ids=data.of(role="user")[5:9], audits=["decoder"], method="retrain").json()["code"] == "audits_unsupported"


def test_the_policy_of_audits_is_listed_with_the_digest_that_statements_name(live: Live) -> None:
    live.fit("ruled", "digits")

    said = said_by(live, ask(live, "ruled", ["utility"]))["predicate"]
    listed = [item for item in live.client.get("/policies").json()["items"] if item["name"] == "audit-v1"]

    assert [item["digest"] for item in listed] == [said["policy"]["digest"]["sha256"]]
    assert canonical.digest(listed[0]["document"]) == listed[0]["digest"]


def test_a_statement_whose_answer_does_not_follow_from_its_numbers_has_no_shape(live: Live) -> None:
    live.fit("honest", "digits")
    job = ask(live, "honest", ["utility"])
    said = canonical.loads(dsse.read(live.client.get(f"/jobs/{job['id']}/certificate").content).payload)
    audited.check(said)

    said["predicate"]["findings"][0] |= {"threshold": "1", "answer": "passed"}
    said["predicate"]["answer"] = "passed"

    with pytest.raises(Exception, match="does not follow"):  # an audit without power cannot pass
        audited.check(said)
