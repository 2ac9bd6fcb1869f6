"""Offline verification: seven steps, and the first that fails is the right one."""

import dataclasses
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from certified import FINDING, certify, inclusion, safetensors, sha256, write
from cryptography.hazmat.primitives.asymmetric import ec

from expunge import canonical, dsse, statement
from expunge.verify import FILES, STEPS, verify
from service import certificates
from service.certificates import Signer
from service.facts import Facts, Refusal

STEP_OF = {
    "signer.pub": 2,
    "certificate.sigstore.json": 2,
    "core.safetensors": 4,
    "user.safetensors": 4,
    "model.json": 4,
    "policy.json": 4,
    "inclusion.json": 5,
    "svr.sigstore.json": 7,
    "model.sig": 7,
}
STRANGER = Signer(ec.derive_private_key(99, ec.SECP256R1()))


def failed(directory: Path, key: Path) -> int:
    report = verify(directory, key=key)
    assert (report.exit_code, report.ok) == (1, False)
    assert report.failed is not None and report.failed.detail and report.failed.advice
    assert [step.passed for step in report.steps] == [True] * (report.failed.number - 1) + [False] + [None] * (7 - report.failed.number)
    return report.failed.number


def test_a_version_with_the_issuers_key_passes_every_step(version: Path, issuer_key: Path, signer: Signer) -> None:
    report = verify(version, key=issuer_key)

    assert [(step.number, step.name, step.passed) for step in report.steps] == [(i + 1, name, True) for i, name in enumerate(STEPS)]
    assert (report.ok, report.exit_code, report.signer_known, report.signer) == (True, 0, True, signer.fingerprint)
    assert report.certificate is not None and report.certificate["predicate"]["verdict"] == "PASSED"


@pytest.mark.parametrize("spell", [str, str.upper, lambda text: ":".join(text[i : i + 2] for i in range(0, 64, 2))])
def test_a_pinned_fingerprint_is_as_good_as_the_key(spell: Callable[[str], str], version: Path, signer: Signer) -> None:
    assert verify(version, fingerprint=spell(signer.fingerprint)).exit_code == 0


def test_without_key_or_fingerprint_the_signer_is_unknown_and_the_exit_code_is_2(version: Path) -> None:
    report = verify(version)

    assert (report.exit_code, report.ok, report.signer_known) == (2, False, False)
    assert "signature consistent, signer unknown" in report.steps[1].detail
    assert "--key" in report.steps[1].advice


def test_another_key_or_fingerprint_fails_at_the_signature(version: Path, tmp_path: Path, signer: Signer) -> None:
    other = tmp_path / "other.pub"
    other.write_bytes(STRANGER.public_pem)

    assert failed(version, other) == 2
    assert failed(version, tmp_path / "absent.pub") == 2
    assert verify(version, fingerprint=STRANGER.fingerprint).steps[1].passed is False
    assert verify(version, fingerprint=signer.fingerprint[:16]).steps[1].passed is False
    assert verify(version, key=other, fingerprint=signer.fingerprint).steps[1].passed is False


def test_a_version_resigned_by_a_stranger_is_consistent_but_not_the_issuers(
    facts: Facts, weight_files: dict[str, bytes], tmp_path: Path, issuer_key: Path
) -> None:
    forged = write(tmp_path / "forged", certify(facts, weight_files, STRANGER))

    assert verify(forged).exit_code == 2
    assert failed(forged, issuer_key) == 2


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_fails_at_the_first_step(name: str, version: Path, issuer_key: Path) -> None:
    (version / name).unlink()

    assert failed(version, issuer_key) == 1


def test_an_unexpected_file_a_link_or_no_directory_fails_at_the_first_step(version: Path, issuer_key: Path, tmp_path: Path) -> None:
    (version / "notes.txt").write_text("x")
    assert failed(version, issuer_key) == 1
    (version / "notes.txt").unlink()
    (version / "model.json").rename(tmp_path / "model.json")
    (version / "model.json").symlink_to(tmp_path / "model.json")
    assert failed(version, issuer_key) == 1
    assert failed(tmp_path / "absent", issuer_key) == 1
    (tmp_path / "empty").mkdir()
    assert failed(tmp_path / "empty", issuer_key) == 1


@pytest.mark.parametrize("mask", [0x01, 0x20])
@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_of_any_file_is_refused_at_the_right_step(name: str, mask: int, version: Path, issuer_key: Path) -> None:
    good = (version / name).read_bytes()
    places = sorted({*range(16), *range(len(good) - 16, len(good)), *range(0, len(good), max(1, len(good) // 40))})

    for place in places:
        (version / name).write_bytes(good[:place] + bytes([good[place] ^ mask]) + good[place + 1 :])
        assert failed(version, issuer_key) == STEP_OF[name], place


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_longer_shorter_or_empty_is_refused_at_the_right_step(name: str, version: Path, issuer_key: Path) -> None:
    good = (version / name).read_bytes()

    for other in (good + b"\n", good + b"\0", b"\n" + good, good[:-1], b"", good + good):
        (version / name).write_bytes(other)
        assert failed(version, issuer_key) == STEP_OF[name]


def test_without_a_key_a_changed_byte_is_refused_as_well(version: Path) -> None:
    for name in FILES:
        good = (version / name).read_bytes()
        for place in range(0, len(good), max(1, len(good) // 25)):
            (version / name).write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
            assert verify(version).exit_code == 1
        (version / name).write_bytes(good)


def resign(version: Path, signer: Signer, change: Callable[[dict[str, Any]], None]) -> Path:
    """Let the issuer itself sign another statement, with everything that stands beside it made anew."""
    said = canonical.loads(dsse.read((version / "certificate.sigstore.json").read_bytes()).payload)
    change(said)
    pem = hashlib.sha256(signer.public_pem).hexdigest()
    sealed = seal(said, signer, signer.fingerprint)
    (version / "certificate.sigstore.json").write_bytes(sealed)
    (version / "svr.sigstore.json").write_bytes(seal(statement.svr_of(said), signer, signer.fingerprint))
    (version / "model.sig").write_bytes(seal(statement.model_signature_of(said), signer, pem))
    (version / "inclusion.json").write_bytes(inclusion(sealed, signer))
    return version


def seal(said: Any, signer: Signer, hint: str) -> bytes:
    return dsse.seal(said, sign=signer.sign, key_id=signer.fingerprint, hint=hint)


def test_resigning_the_unchanged_statement_passes(version: Path, issuer_key: Path, signer: Signer) -> None:
    assert verify(resign(version, signer, lambda said: None), key=issuer_key).exit_code == 0


def at(*path: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(said: dict[str, Any]) -> None:
        here: Any = said
        for step in path[:-1]:
            here = here[step]
        here[path[-1]] = to

    return change


PREDICATE = "predicate"
FIRST = (PREDICATE, "guarantee", 0)
LYING_FINDING = {
    "audit": "membership",
    "access": "weights",
    "metric": "auc",
    "value": "0.9",
    "ci95": ["0.8", "1"],
    "n": 100,
    "threshold": "0.55",
    "passed": False,
    "power": {"planted": 3, "caught": 3},
    "reference": "refit",
}


@pytest.mark.parametrize(
    "change",
    [
        at("_type", to="https://in-toto.io/Statement/v0.1"),
        at("predicateType", to="urn:expunge:certificate:v2"),
        at(PREDICATE, "extra", to=1),
        at(PREDICATE, "verdict", to="REFUSED"),
        at(PREDICATE, "issuedAt", to="yesterday"),
        at(PREDICATE, "dispositions", "forgotten", to=24),
        at(PREDICATE, "request", to=None),
        at(PREDICATE, "model", "parent", to=None),
        at(*FIRST, "name", to="forgotten"),
        at(*FIRST, "value", "mu", to=0),
        at(*FIRST, to={**LYING_FINDING, "name": "membership"}),
        at(PREDICATE, "utility", 0, "before", "accuracy", to="0.950000"),
        at(PREDICATE, "utility", 0, "before", "n", to=19),
        at(PREDICATE, "kind", to="refusal"),
    ],
)
def test_a_signed_statement_of_another_shape_fails_at_step_3(
    change: Callable[[dict[str, Any]], None], version: Path, issuer_key: Path, signer: Signer
) -> None:
    assert failed(resign(version, signer, change), issuer_key) == 3


def test_a_signed_statement_that_is_not_canonical_fails_at_step_3(version: Path, issuer_key: Path, signer: Signer) -> None:
    payload = json.dumps(canonical.loads(dsse.read((version / "certificate.sigstore.json").read_bytes()).payload)).encode()
    sealed = dsse.write(dsse.Bundle(payload, signer.sign(dsse.pae(payload)), signer.fingerprint, signer.fingerprint))
    (version / "certificate.sigstore.json").write_bytes(sealed)

    assert failed(version, issuer_key) == 3


def test_a_signed_refusal_in_a_versions_place_fails_at_step_3(facts: Facts, version: Path, issuer_key: Path, signer: Signer) -> None:
    request = dataclasses.replace(facts.request, count=0) if facts.request else None
    refusal = Refusal(code="core_sample", detail="only retraining forgets core samples")
    refused = dataclasses.replace(facts, request=request, dispositions=None, guarantees=(), utility=(), refusal=refusal)
    (version / "certificate.sigstore.json").write_bytes(certificates.refusal_bundle(refused, signer))

    assert failed(version, issuer_key) == 3


def test_another_certificates_place_in_the_log_fails_at_step_5(
    facts: Facts, weight_files: dict[str, bytes], version: Path, issuer_key: Path, signer: Signer
) -> None:
    other = certify(dataclasses.replace(facts, job_id="job-2"), weight_files, signer)
    (version / "inclusion.json").write_bytes(other["inclusion.json"])

    assert failed(version, issuer_key) == 5


def test_a_checkpoint_signed_by_a_stranger_fails_at_step_5(version: Path, issuer_key: Path) -> None:
    (version / "inclusion.json").write_bytes(inclusion((version / "certificate.sigstore.json").read_bytes(), STRANGER))

    assert failed(version, issuer_key) == 5


@pytest.mark.parametrize(
    "change",
    [
        at("index", to=4),
        at("index", to=11),
        at("index", to=-1),
        at("size", to=12),
        at("path", to=[]),
        at("path", 0, to="AAA"),
        at("path", 0, to="="),
        at("leaf", to={"certificate": "00" * 32}),
        at("leaf", to=[]),
        at("checkpoint", to="x"),
        at("more", to=1),
    ],
)
def test_an_inclusion_file_that_says_anything_else_fails_at_step_5(
    change: Callable[[dict[str, Any]], None], version: Path, issuer_key: Path
) -> None:
    value = json.loads((version / "inclusion.json").read_bytes())
    change(value)
    (version / "inclusion.json").write_bytes(canonical.dumps(value))

    assert failed(version, issuer_key) == 5


@pytest.mark.parametrize(
    "change",
    [
        at(PREDICATE, "policy", "digest", "sha256", to="00" * 32),
        at(PREDICATE, "policy", "name", to="exact-v9"),
        at(PREDICATE, "model", "core", "digest", "sha256", to="00" * 32),
        at(PREDICATE, "model", "architecture", "digest", "sha256", to="00" * 32),
        at(PREDICATE, "guarantee", to=[]),
        at(*FIRST, "value", "mu", to="0.1"),
        at(*FIRST, "value", "weights", "sha256", to="00" * 32),
        at(*FIRST, "value", "weightValues", "sha256", to="00" * 32),
        at(PREDICATE, "findings", to=[LYING_FINDING]),
    ],
)
def test_a_signed_statement_from_which_the_verdict_does_not_follow_fails_at_step_6(
    change: Callable[[dict[str, Any]], None], version: Path, issuer_key: Path, signer: Signer
) -> None:
    assert failed(resign(version, signer, change), issuer_key) == 6


def with_file(version: Path, signer: Signer, name: str, data: bytes, *more: Callable[[dict[str, Any]], None]) -> Path:
    """Replace a file and let the issuer sign the new digest."""
    (version / name).write_bytes(data)
    place = statement.SUBJECT_FILES.index(name)

    def change(said: dict[str, Any]) -> None:
        at("subject", place, "digest", "sha256", to=sha256(data))(said)
        for further in more:
            further(said)

    return resign(version, signer, change)


def test_a_policy_that_asks_for_an_audit_needs_it_run_with_power(version: Path, issuer_key: Path, signer: Signer) -> None:
    rules = json.loads((version / "policy.json").read_bytes()) | {"audits": ["membership"]}
    data = canonical.dumps(rules)
    named = at(PREDICATE, "policy", "digest", "sha256", to=sha256(data))

    def run(**instead: Any) -> Path:
        found = at(PREDICATE, "findings", to=[LYING_FINDING | {"passed": True} | instead])
        return with_file(version, signer, "policy.json", data, named, found)

    assert failed(with_file(version, signer, "policy.json", data, named), issuer_key) == 6
    assert failed(run(power={"planted": 3, "caught": 0}), issuer_key) == 6
    assert failed(run(passed=False), issuer_key) == 6
    assert verify(run(), key=issuer_key).exit_code == 0


@pytest.mark.parametrize("data", [b"{}", b"[]", b'{"audits":[],"guarantee":{"anyOf":[],"muMax":"0"},"name":"exact-v1"}', b"x"])
def test_a_signed_policy_that_accepts_nothing_or_is_no_policy_fails_at_step_6(
    data: bytes, version: Path, issuer_key: Path, signer: Signer
) -> None:
    named = at(PREDICATE, "policy", "digest", "sha256", to=sha256(data))

    assert failed(with_file(version, signer, "policy.json", data, named), issuer_key) == 6


def header(text: bytes, length: int | None = None) -> bytes:
    return (len(text) if length is None else length).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 8,
        header(b"{}"),
        header(b"[1]"),
        header(b'{"user.weight":{"data_offsets":[0,9e99]}}'),
        header(b'{"user.weight":{"data_offsets":[-1,4]}}'),
        header(b'{"user.weight":{"data_offsets":[8,0]}}'),
        header(b'{"user.weight":{"data_offsets":[0,100]}}'),
        header(b'{"user.weight":{"data_offsets":["a","b"]}}'),
        header(b"[" * 100_000),
        header(b"{}", 1 << 62),
        safetensors(**{"user.bias": np.zeros(3)}),
    ],
)
def test_signed_weights_that_are_no_safetensors_fail_at_step_6(data: bytes, version: Path, issuer_key: Path, signer: Signer) -> None:
    proved = at(*FIRST, "value", "weights", "sha256", to=sha256(data))

    assert failed(with_file(version, signer, "user.safetensors", data, proved), issuer_key) == 6


@pytest.mark.parametrize("name", ["svr.sigstore.json", "model.sig"])
def test_a_short_statement_about_another_version_fails_at_step_7(
    name: str, facts: Facts, weight_files: dict[str, bytes], version: Path, issuer_key: Path, signer: Signer
) -> None:
    renamed = dataclasses.replace(facts.model, name="letters")
    other = certify(dataclasses.replace(facts, model=renamed, issued_at="2026-02-01T00:00:00Z"), weight_files, signer)
    (version / name).write_bytes(other[name])

    assert failed(version, issuer_key) == 7


@pytest.mark.parametrize("name", ["svr.sigstore.json", "model.sig"])
def test_a_short_statement_by_a_stranger_fails_at_step_7(
    name: str, facts: Facts, weight_files: dict[str, bytes], version: Path, issuer_key: Path
) -> None:
    (version / name).write_bytes(certify(facts, weight_files, STRANGER)[name])

    assert failed(version, issuer_key) == 7


def test_verification_loads_neither_torch_nor_numpy_nor_any_server_package() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, expunge.verify; print(' '.join({m.split('.')[0] for m in sys.modules}))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()

    unwanted = {"torch", "numpy", "fastapi", "sqlalchemy", "celery", "models", "service", "workers", "httpx", "pydantic"}
    assert unwanted.isdisjoint(loaded)


def test_findings_of_the_facts_reach_the_verifier(
    facts: Facts, weight_files: dict[str, bytes], tmp_path: Path, issuer_key: Path, signer: Signer
) -> None:
    version = write(tmp_path / "v", certify(dataclasses.replace(facts, findings=(FINDING,)), weight_files, signer))

    report = verify(version, key=issuer_key)

    assert report.ok and report.certificate is not None
    assert report.certificate["predicate"]["findings"][0]["power"] == {"planted": 3, "caught": 3}
