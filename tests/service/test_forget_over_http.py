"""The main job, over HTTP with a real service process: what is forgotten equals what was never there, by hash."""

from __future__ import annotations

import json
import uuid
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest

from models.forget import exact, retrain
from tests.digits import Digits, parquet
from tests.live import Live
from tests.service.forms import BOTH_FORMS


def fresh(live: Live, data: Digits, directory: Path, **more: Any) -> str:
    """A new model on an upload of its own: forgetting takes rows out of the data set too."""
    name = uuid.uuid4().hex[:12]
    live.upload(name, parquet(data, directory / f"{name}.parquet"))
    live.fit(name, name, **more)
    return name


def statement(live: Live, model: str) -> dict[str, Any]:
    bundle = live.client.get(live.version(model)["certificate"]).json()
    found: dict[str, Any] = json.loads(b64decode(bundle["dsseEnvelope"]["payload"]))
    return found


def proof(live: Live, model: str) -> tuple[str, str, list[str]]:
    (entry,) = statement(live, model)["predicate"]["guarantee"]
    return entry["name"], entry["theorem"], entry["assumptions"]


@pytest.mark.parametrize("asked", ["one", "hundred", "class"])
def test_forgetting_gives_the_file_that_fitting_without_the_rows_gives(live: Live, data: Digits, tmp_path: Path, asked: str) -> None:
    users = data.of(role="user")
    gone = {"one": users[:1], "hundred": users[100:200], "class": data.of(role="user", label=7)}[asked]
    model = fresh(live, data, tmp_path)
    before = live.sha256(model)

    request = live.forget(model, ids=gone).json()
    live.request(request["id"])
    reference = fresh(live, data.without(set(gone)), tmp_path)

    assert live.sha256(model, "core.safetensors") == live.sha256(reference, "core.safetensors")
    assert before != live.sha256(reference)
    assert live.sha256(model) == live.sha256(reference)
    assert statement(live, model)["predicate"]["emptiedClasses"] == (["7"] if asked == "class" else [])
    assert proof(live, model) == proof(live, reference) == ("equal_to_refit", exact.THEOREM, list(exact.ASSUMPTIONS))


def test_auto_takes_exact_and_the_answer_says_why(live: Live, data: Digits, tmp_path: Path) -> None:
    model, users = fresh(live, data, tmp_path), data.of(role="user")

    answers = [live.forget(model, ids=users[i : i + 1], **asked).json() for i, asked in enumerate(({}, {"method": "auto"}))]
    named = live.forget(model, ids=users[2:3], method="retrain").json()
    ended = [live.request(answer["id"]) for answer in (*answers, named)]

    assert [end["method"] for end in ended] == ["exact", "exact", "retrain"]
    for said in (*answers, *ended[:2]):
        assert "linear in fixed integer features" in said["why"]  # of this model
        assert "removing rows gives the very bits that refitting without them gives" in said["why"]  # so nothing stronger is needed
        assert "Rows of the core are answered `core_sample`; method `retrain` removes those too" in said["why"]  # and what it leaves
    assert named["why"] == ended[2]["why"] != answers[0]["why"]


@BOTH_FORMS
def test_order_and_grouping_of_requests_leave_no_trace(live: Live, data: Digits, tmp_path: Path) -> None:
    a, b = data.of(subject="person-03"), data.of(subject="person-04")
    one_by_one, together = fresh(live, data, tmp_path), fresh(live, data, tmp_path)

    for gone in (b, a):
        live.request(live.forget(one_by_one, ids=gone).json()["id"])
    live.request(live.forget(together, subjects=["person-03", "person-04"]).json()["id"])

    assert live.version(one_by_one)["number"] == 3
    assert live.version(together)["number"] == 2
    assert live.sha256(one_by_one) == live.sha256(together)


@BOTH_FORMS
def test_retrain_forgets_core_samples_and_equals_training_without_them(live: Live, data: Digits, tmp_path: Path) -> None:
    gone = [*data.of(role="core")[:2], *data.of(role="user")[:3]]
    model = fresh(live, data, tmp_path)

    refused = live.forget(model, ids=gone[:2]).json()
    job = live.end_of(f"/jobs/{refused['job']}")
    request = live.forget(model, ids=gone, method="retrain").json()
    ended = live.request(request["id"])
    reference = fresh(live, data.without(set(gone)), tmp_path)

    assert (job["state"], job["error"]["code"]) == ("refused", "core_sample")
    assert live.request(refused["id"])["state"] == "refused"
    assert (ended["state"], ended["dispositions"]["ids"]) == ("fulfilled", ["forgotten"] * 5)
    for file in ("core.safetensors", "user.safetensors"):
        assert live.sha256(model, file) == live.sha256(reference, file)
    assert proof(live, model) == ("equal_to_retrain", retrain.THEOREM, list(retrain.ASSUMPTIONS))


def test_a_refusal_is_signed_and_publishes_nothing(live: Live, data: Digits, tmp_path: Path) -> None:
    model = fresh(live, data, tmp_path)

    request = live.forget(model, ids=data.of(role="core")[:2]).json()
    live.end_of(f"/jobs/{request['job']}")
    bundle = live.client.get(f"/jobs/{request['job']}/certificate").json()
    said = json.loads(b64decode(bundle["dsseEnvelope"]["payload"]))

    assert said["predicate"]["verdict"] == "REFUSED"
    assert said["predicate"]["refusal"]["code"] == "core_sample"
    assert live.version(model)["number"] == 1


def test_everything_gives_the_core_alone_and_equals_forgetting_every_user_id(live: Live, data: Digits, tmp_path: Path) -> None:
    by_name, by_ids = fresh(live, data, tmp_path), fresh(live, data, tmp_path)

    first = live.client.post("/forget", json={"model": by_name, "forget": {"kind": "everything"}}).json()
    second = live.forget(by_ids, ids=data.of(role="user")).json()
    ended = [live.request(r["id"]) for r in (first, second)]

    assert first["method"] == "zero"
    assert [r["dispositions"]["counts"] for r in ended] == [{"forgotten": 1147}] * 2
    assert live.sha256(by_name) == live.sha256(by_ids)
    weights = live.client.get(f"/models/{by_name}/versions/2/files/user.safetensors").content
    assert not any(weights[8 + int.from_bytes(weights[:8], "little") :])


def test_every_sample_gets_its_disposition_and_ids_are_never_repeated(live: Live, data: Digits, tmp_path: Path) -> None:
    model, users = fresh(live, data, tmp_path), data.of(role="user")
    live.request(live.forget(model, ids=users[:1]).json()["id"])

    answer = live.forget(model, ids=[users[0], users[1], "nobody", data.of(role="core")[0], users[1]], subjects=["person-05", "stranger"])
    ended = live.request(answer.json()["id"])

    assert ended["dispositions"]["ids"] == ["already_forgotten", "forgotten", "not_found", "core_sample", "forgotten"]
    of_person = len(data.of(subject="person-05"))
    assert ended["dispositions"]["subjects"] == [{"forgotten": of_person}, {"not_found": 1}]
    assert ended["dispositions"]["counts"] == {"already_forgotten": 1, "forgotten": 1 + of_person, "not_found": 2, "core_sample": 1}
    assert ended["state"] == "partial"
    assert not any(sample in json.dumps(ended) for sample in (*users[:2], "nobody", "stranger", "person-05"))
    again = live.request(live.forget(model, subjects=["person-05"]).json()["id"])
    assert again["dispositions"]["subjects"] == [{"already_forgotten": 1}]


@BOTH_FORMS
def test_two_people_who_name_the_same_sample_are_both_answered_by_one_certificate(live: Live, data: Digits, tmp_path: Path) -> None:
    model, users = fresh(live, data, tmp_path), data.of(role="user")
    dataset = live.client.get(f"/models/{model}").json()["dataset"]
    body = {"name": f"{model}-slow", "dataset": dataset, "architecture": {"name": "convnet"}, "training": {"epochs": 10}}
    busy = live.client.post("/models", json=body)  # one job a data set: the requests below wait for it, together

    answers = [live.forget(model, ids=ids).json() for ids in (users[:2], users[1:3], ["nobody"])]
    live.job(busy)
    ended = [live.request(a["id"]) for a in answers]

    assert len({a["job"] for a in answers}) == 1
    assert [e["dispositions"]["ids"] for e in ended] == [["forgotten"] * 2, ["forgotten"] * 2, ["not_found"]]
    said = statement(live, model)["predicate"]
    assert said["request"]["ids"] == sorted(a["id"] for a in answers)
    assert said["request"]["forgetSet"]["count"] == said["dispositions"]["forgotten"] == 3
    receipts = [live.client.post(f"/forget/{e['id']}/receipts", json={"ids": users[:3]}) for e in ended[:2]]
    assert [[r is not None for r in answer.json()["receipts"]] for answer in receipts] == [[True, True, False], [False, True, True]]


def test_where_selects_by_label_and_attribute_among_rows_that_were_trained_on(live: Live, data: Digits, tmp_path: Path) -> None:
    model = fresh(live, data, tmp_path)
    left = [s for s, h, y in zip(data.ids, data.hands, data.labels, strict=True) if h == "left" and y == 4]
    users = set(data.of(role="user")) & set(left)
    core = set(data.of(role="core")) & set(left)

    ended = live.request(live.forget(model, where={"label": 4, "attributes": {"hand": "left"}}).json()["id"])

    assert ended["dispositions"]["where"] == {"forgotten": len(users), "core_sample": len(core)}


def test_audit_rows_go_when_they_are_named_and_the_weights_stay_as_they_are(live: Live, data: Digits, tmp_path: Path) -> None:
    model, audit = fresh(live, data, tmp_path), data.of(role="audit")
    before = live.sha256(model)

    some = live.request(live.forget(model, ids=audit[:3]).json()["id"])
    rest = live.request(live.forget(model, ids=audit[3:]).json()["id"])
    dataset = live.client.get(f"/datasets/{model}").json()["summary"]

    assert some["dispositions"]["ids"] == ["forgotten"] * 3
    assert rest["state"] == "fulfilled"
    assert (live.version(model)["number"], live.sha256(model)) == (3, before)
    assert dataset["roles"]["audit"]["rows"] == 0
    assert live.version(model)["utility"] == []


def test_nothing_found_is_fulfilled_without_a_new_version(live: Live, data: Digits, tmp_path: Path) -> None:
    model = fresh(live, data, tmp_path)

    ended = live.request(live.forget(model, ids=["nobody"]).json()["id"])

    assert (ended["state"], ended["version"], ended["dispositions"]["counts"]) == ("fulfilled", None, {"not_found": 1})
    assert live.version(model)["number"] == 1


def test_a_row_that_another_model_holds_stays_in_the_data_set_and_the_answer_says_so(live: Live, data: Digits, upload: bytes) -> None:
    shared = f"d-{uuid.uuid4().hex[:12]}"
    live.upload(shared, upload)
    first, second, gone = f"{shared}-1", f"{shared}-2", data.of(role="user")[:3]
    for name in (first, second):
        live.fit(name, shared)

    one = live.request(live.forget(first, ids=gone).json()["id"])
    between = live.client.get(f"/datasets/{shared}").json()["summary"]["rows"]
    two = live.request(live.forget(second, ids=gone).json()["id"])
    after = live.client.get(f"/datasets/{shared}").json()["summary"]["rows"]

    assert one["dispositions"]["still_held_by"] == [second]
    assert "still_held_by" not in two["dispositions"]
    assert (between, after) == (1797, 1794)


def test_receipts_prove_membership_in_the_signed_set_and_only_that(live: Live, data: Digits, tmp_path: Path) -> None:
    from expunge import merkle

    model, users = fresh(live, data, tmp_path), data.of(role="user")
    request = live.request(live.forget(model, ids=users[:5]).json()["id"])

    answer = live.client.post(f"/forget/{request['id']}/receipts", json={"ids": [users[2], users[9]]}).json()
    signed = statement(live, model)["predicate"]["request"]["forgetSet"]
    receipt = merkle.Receipt(**{**answer["receipts"][0], "path": tuple(answer["receipts"][0]["path"])})

    assert answer["receipts"][1] is None
    assert signed == {"count": 5, "commitment": answer["commitment"]["root"]}
    assert merkle.verify_receipt(users[2], receipt, root=signed["commitment"], count=5)
    assert not merkle.verify_receipt(users[3], receipt, root=signed["commitment"], count=5)


def test_a_plain_linear_model_without_core_forgets_to_the_bit(live: Live, data: Digits, tmp_path: Path) -> None:
    form = {"architecture": {"name": "linear"}, "core": "none", "range": 255.0, "ridge": 30.0, "classes": list(range(10))}
    gone = data.of(role="user")[:40]
    model = fresh(live, data, tmp_path, **form)
    before = live.sha256(model)

    live.request(live.forget(model, ids=gone).json()["id"])
    reference = fresh(live, data.without(set(gone)), tmp_path, **form)

    assert before != live.sha256(reference)
    assert live.sha256(model) == live.sha256(reference)
