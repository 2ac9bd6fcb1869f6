"""A certificate says the facts and nothing else, the same bytes every time, and cannot call a measurement proved."""

import base64
import dataclasses
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from certified import FINDING, certify, payload, sha256
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from expunge import statement
from service import certificates
from service.certificates import BadSigningKey, Signer
from service.facts import EXACT_POLICY, Accuracy, Facts, Finding, Policy, Refusal, Utility


def digests(files: dict[str, bytes]) -> dict[str, str]:
    return {name: sha256(data) for name, data in files.items()}


def test_certifying_twice_gives_the_same_bytes(facts: Facts, weight_files: dict[str, bytes], signer: Signer) -> None:
    again = Signer(ec.derive_private_key(signer.key.private_numbers().private_value, ec.SECP256R1()))
    shuffled = dict(reversed(weight_files.items()))

    assert certify(facts, weight_files, signer) == certify(facts, shuffled, again)


def test_the_order_in_which_dispositions_and_hyperparameters_were_written_does_not_matter(
    facts: Facts, weight_files: dict[str, bytes], signer: Signer
) -> None:
    method = dataclasses.replace(facts.method, hyperparameters=dict(reversed(list(facts.method.hyperparameters.items()))))
    other = dataclasses.replace(facts, method=method, dispositions={"not_found": 1, "forgotten": 25, "failed": 0})

    assert certify(facts, weight_files, signer) == certify(other, weight_files, signer)


def test_the_statement_names_every_file_and_the_facts(facts: Facts, weight_files: dict[str, bytes], signer: Signer) -> None:
    said = payload(certify(facts, weight_files, signer)["certificate.sigstore.json"])

    assert {s["name"]: s["digest"]["sha256"] for s in said["subject"]} == digests(weight_files)
    predicate = said["predicate"]
    assert (predicate["verdict"], predicate["kind"]) == ("PASSED", "forget")
    assert predicate["dispositions"]["forgotten"] == 25
    assert predicate["guarantee"][0]["value"]["mu"] == "0"
    assert predicate["utility"][0]["before"] == {"correct": 90, "n": 100, "accuracy": "0.900000", "ci95": ["0.825", "0.945"]}
    assert "fence" not in predicate and "checkpoint" not in predicate


def test_no_number_in_a_statement_is_a_fraction(facts: Facts, weight_files: dict[str, bytes], signer: Signer) -> None:
    def fractions(value: Any) -> list[float]:
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list):
            return [found for item in value for found in fractions(item)]
        return [value] if isinstance(value, float) else []

    said = payload(certify(dataclasses.replace(facts, findings=(FINDING,)), weight_files, signer)["certificate.sigstore.json"])

    assert fractions(said) == []


def test_the_first_fit_has_neither_request_nor_parent(facts: Facts, weight_files: dict[str, bytes], signer: Signer) -> None:
    model = dataclasses.replace(facts.model, parent=None)
    fit = dataclasses.replace(facts, request=None, dispositions=None, model=model)

    said = payload(certify(fit, weight_files, signer)["certificate.sigstore.json"])["predicate"]

    assert (said["kind"], said["request"], said["model"]["parent"]) == ("fit", None, None)


def test_an_emptied_class_is_said(facts: Facts, weight_files: dict[str, bytes], signer: Signer) -> None:
    emptied = dataclasses.replace(facts, emptied_classes=("cat",))

    said = payload(certify(emptied, weight_files, signer)["certificate.sigstore.json"])["predicate"]

    assert said["emptiedClasses"] == ["cat"]


def test_a_refusal_publishes_nothing_and_proves_nothing(facts: Facts, signer: Signer) -> None:
    refusal = Refusal(code="core_sample", detail="core samples are forgotten by method retrain")
    request = dataclasses.replace(facts.request, count=0) if facts.request else None
    refused = dataclasses.replace(facts, request=request, dispositions={"core_sample": 2}, guarantees=(), utility=(), refusal=refusal)

    said = payload(certificates.refusal_bundle(refused, signer))

    assert [subject["name"] for subject in said["subject"]] == ["policy.json"]
    assert (said["predicate"]["verdict"], said["predicate"]["kind"]) == ("REFUSED", "refusal")
    with pytest.raises(ValueError, match="whose weights are proved"):
        certificates.refusal_bundle(dataclasses.replace(refused, guarantees=facts.guarantees), signer)
    with pytest.raises(ValueError, match="reason"):
        certificates.refusal_bundle(facts, signer)


def test_a_measured_value_cannot_stand_among_the_proved_ones_nor_the_other_way_round(
    facts: Facts, weight_files: dict[str, bytes], signer: Signer
) -> None:
    class Disguised(Finding):
        """A measurement with every field of a proof."""

        name, theorem, assumptions = "equal_to_refit", "Measured often enough.", ()

    disguised = Disguised(**{f.name: getattr(FINDING, f.name) for f in dataclasses.fields(Finding)})

    with pytest.raises(TypeError, match="not proved"):
        certify(dataclasses.replace(facts, guarantees=(disguised,)), weight_files, signer)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not measured"):
        certify(dataclasses.replace(facts, findings=facts.guarantees), weight_files, signer)  # type: ignore[arg-type]


def test_a_statement_whose_guarantee_is_a_finding_has_no_accepted_shape(
    facts: Facts, weight_files: dict[str, bytes], signer: Signer
) -> None:
    said = payload(certify(dataclasses.replace(facts, findings=(FINDING,)), weight_files, signer)["certificate.sigstore.json"])
    statement.check(said)

    said["predicate"]["guarantee"] = said["predicate"]["findings"]

    with pytest.raises(statement.BadStatement, match=r"guarantee\[0\]"):
        statement.check(said)


def test_facts_that_contradict_the_files_are_not_signed(facts: Facts, weight_files: dict[str, bytes], signer: Signer) -> None:
    for name in ("core.safetensors", "user.safetensors", "policy.json"):
        with pytest.raises(ValueError, match=name):
            certify(facts, {**weight_files, name: weight_files[name] + b" "}, signer)
    with pytest.raises(ValueError, match="subjects"):
        certify(facts, {**weight_files, "notes.txt": b""}, signer)


def test_a_version_without_a_guarantee_that_its_policy_accepts_is_not_signed(
    facts: Facts, weight_files: dict[str, bytes], signer: Signer
) -> None:
    strict = Policy(name="retrain-only", guarantees=("equal_to_retrain",))
    files = {**weight_files, "policy.json": certificates.policy_file(strict)}

    with pytest.raises(ValueError, match="guarantee"):
        certify(dataclasses.replace(facts, guarantees=()), weight_files, signer)
    with pytest.raises(ValueError, match="guarantee"):
        certify(dataclasses.replace(facts, policy=strict), files, signer)
    retrained = dataclasses.replace(facts.guarantees[0], name="equal_to_retrain")
    assert certify(dataclasses.replace(facts, policy=strict, guarantees=(retrained,)), files, signer)


def test_a_forget_set_of_another_size_than_the_forgotten_samples_is_not_signed(
    facts: Facts, weight_files: dict[str, bytes], signer: Signer
) -> None:
    with pytest.raises(statement.BadStatement, match="forgetSet"):
        certify(dataclasses.replace(facts, dispositions={"forgotten": 24}), weight_files, signer)


@pytest.mark.parametrize(
    "moment",
    ["2026-01-31T12:00:00+00:00", "2026-01-31 12:00:00Z", "2026-02-30T12:00:00Z", "2026-01-31T12:00:00", "\u0662026-01-31T12:00:00Z"],
)
def test_a_moment_in_another_form_is_not_signed(moment: str, facts: Facts, weight_files: dict[str, bytes], signer: Signer) -> None:
    with pytest.raises(statement.BadStatement, match="issuedAt"):
        certify(dataclasses.replace(facts, issued_at=moment), weight_files, signer)


def test_an_accuracy_over_fewer_than_twenty_rows_is_withheld_not_signed(
    facts: Facts, weight_files: dict[str, bytes], signer: Signer
) -> None:
    few = Accuracy(correct=1, n=19, ci95=("0.01", "0.25"))
    row = Utility(metric="accuracy", split="forgotten", before=few, after="withheld", retrained="withheld")

    with pytest.raises(ValueError, match="withheld"):
        certify(dataclasses.replace(facts, utility=(row,)), weight_files, signer)


def test_no_sample_id_is_in_any_file_of_a_version(version_files: dict[str, bytes]) -> None:
    said = json.dumps(payload(version_files["certificate.sigstore.json"]))

    assert not any(f'"s-{i}"' in said for i in range(25))
    assert payload(version_files["certificate.sigstore.json"])["predicate"]["request"]["forgetSet"]["count"] == 25


def test_the_name_by_digest_is_the_sha256_of_the_statement(version_files: dict[str, bytes]) -> None:
    bundle = version_files["certificate.sigstore.json"]
    said = base64.b64decode(json.loads(bundle)["dsseEnvelope"]["payload"])

    assert certificates.statement_digest(bundle) == hashlib.sha256(said).hexdigest()
    assert certificates.log_leaf(bundle) == b'{"certificate":"%s"}' % hashlib.sha256(said).hexdigest().encode()


def test_a_signing_key_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "signing.pem"

    first, second = certificates.load_signer(path), certificates.load_signer(path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert first.fingerprint == second.fingerprint
    assert os.listdir(path.parent) == ["signing.pem"]
    assert first.sign(b"text") == second.sign(b"text")
    assert first.fingerprint not in repr(first.key) and "private" not in repr(first)


def test_a_key_made_meanwhile_by_another_process_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "signing.pem"
    theirs = certificates.load_signer(path)

    certificates._create(path)

    assert certificates.load_signer(path).fingerprint == theirs.fingerprint
    assert os.listdir(tmp_path) == ["signing.pem"]


def test_a_signing_key_that_others_can_read_or_that_is_no_p256_key_is_refused(tmp_path: Path) -> None:
    loose, wrong, text = tmp_path / "loose.pem", tmp_path / "wrong.pem", tmp_path / "text.pem"
    certificates.load_signer(loose)
    loose.chmod(0o640)
    wrong.write_bytes(ec.generate_private_key(ec.SECP384R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    text.write_text("key")
    wrong.chmod(0o600)
    text.chmod(0o600)

    for path in (loose, wrong, text):
        with pytest.raises(BadSigningKey, match=path.name):
            certificates.load_signer(path)


def test_the_default_policy_asks_for_equality_and_for_no_audit() -> None:
    rules = json.loads(certificates.policy_file(EXACT_POLICY))

    assert rules == {"name": "exact-v1", "guarantee": {"anyOf": ["equal_to_refit", "equal_to_retrain"], "muMax": "0"}, "audits": []}
