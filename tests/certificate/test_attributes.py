"""A version from which an attribute was removed verifies by its findings, and by nothing less."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from certified import ARCHITECTURE, CLASSES, certify, payload, write

from expunge import canonical
from expunge.verify import verify
from service import certificates
from service.certificates import Signer
from service.facts import ATTRIBUTE_LIMITATIONS, LIMITATIONS, Attribute, Facts, Figure, Finding, Policy
from service.policies import ACCURACY, DROP, LEAKAGE, PROBES, attribute_policy

EARLIER = "12" * 32
FORM = ARCHITECTURE | {"adapter": {"kind": "affine"}}
POLICY = attribute_policy([{"name": "sex", "claim": "any", "budget": {"max_leakage_nats": 0.05, "max_accuracy_drop": 0.01}}])
LEAK = Finding(
    audit=PROBES, access="served", metric=LEAKAGE, value="0.041", ci95=("0.01", "0.03"), n=400, threshold="0.05", passed=True, planted=3,
    caught=3, reference="0.31", attribute="sex", measured_in=None,
)  # fmt: skip
LOST = Finding(
    audit=ACCURACY, access="answers", metric=DROP, value="0.004", ci95=("-0.001", "0.009"), n=500, threshold="0.01", passed=True, planted=0,
    caught=0, reference="0.9", attribute="sex", measured_in=None,
)  # fmt: skip
SEX = Attribute(
    name="sex", values=2, data="core", claim="any", method="leace", scope="bottleneck", parameters={"balanced": "True"},
    figures=(Figure(name="attribute_entropy_nats", value="0.693147", access="served"),), removed_in=None,
)  # fmt: skip


@pytest.fixture
def removed(facts: Facts) -> Facts:
    model = dataclasses.replace(facts.model, architecture_digest=canonical.digest(FORM))
    said = dataclasses.replace(facts, policy=POLICY, model=model, findings=(LEAK, LOST), attributes=(SEX,))
    return dataclasses.replace(said, limitations=LIMITATIONS + ATTRIBUTE_LIMITATIONS)


@pytest.fixture
def directory(tmp_path: Path, weight_files: dict[str, bytes], signer: Signer) -> Callable[..., Path]:
    def written(facts: Facts, form: dict[str, Any] = FORM, policy: Policy | None = None) -> Path:
        files = weight_files | {
            "model.json": certificates.model_file(form, CLASSES),
            "policy.json": certificates.policy_file(policy or facts.policy),
        }
        return write(tmp_path / "v", certify(facts, files, signer))

    return written


def test_a_removal_within_its_budget_verifies(directory: Callable[..., Path], removed: Facts, issuer_key: Path) -> None:
    report = verify(directory(removed), key=issuer_key)

    assert report.ok, report.failed


def test_findings_restated_from_an_earlier_statement_verify_if_that_statement_is_still_in_force(
    directory: Callable[..., Path], removed: Facts, issuer_key: Path
) -> None:
    again = tuple(dataclasses.replace(finding, measured_in=EARLIER) for finding in removed.findings)
    restated = dataclasses.replace(removed, findings=again, attributes=(dataclasses.replace(SEX, removed_in=EARLIER),))

    stands = verify(directory(dataclasses.replace(restated, still_in_force=(EARLIER,))), key=issuer_key)
    hangs = verify(directory(restated), key=issuer_key)

    assert stands.ok, stands.failed
    assert hangs.failed is not None and "stillInForce" in hangs.failed.detail


@pytest.mark.parametrize(
    ("findings", "said"),
    [
        ((LOST,), "was not run"),
        ((LEAK,), "is found 0 times"),
        ((LEAK, LEAK, LOST), "is found 2 times"),
        ((dataclasses.replace(LEAK, value="0.06"), LOST), "more than 0.05"),
        ((dataclasses.replace(LEAK, threshold="0.5", value="0.06"), LOST), "another threshold"),
        ((dataclasses.replace(LEAK, caught=2), LOST), "2 of 3 planted leaks"),
        ((dataclasses.replace(LEAK, planted=2, caught=2), LOST), "2 of 2 planted leaks"),
        ((dataclasses.replace(LEAK, planted=0, caught=0), LOST), "caught no planted leak"),
        ((dataclasses.replace(LEAK, passed=False), LOST), "said no"),
        ((dataclasses.replace(LEAK, attribute="age"), LOST), "is found 0 times"),
        ((LEAK, dataclasses.replace(LOST, value="0.02")), "more than 0.01"),
    ],
)
def test_a_finding_that_is_missing_beyond_its_threshold_or_without_power_fails_the_policy(
    directory: Callable[..., Path], removed: Facts, issuer_key: Path, findings: tuple[Finding, ...], said: str
) -> None:
    report = verify(directory(dataclasses.replace(removed, findings=findings)), key=issuer_key)

    assert report.failed is not None and report.failed.name == "policy"
    assert said in report.failed.detail


def test_an_adapter_and_a_removed_attribute_stand_for_one_another(
    directory: Callable[..., Path], removed: Facts, facts: Facts, issuer_key: Path
) -> None:
    plain = dataclasses.replace(removed, model=facts.model)
    silent = dataclasses.replace(facts, model=removed.model)

    without_adapter = verify(directory(plain, ARCHITECTURE), key=issuer_key)
    without_words = verify(directory(silent, FORM), key=issuer_key)

    for report in (without_adapter, without_words):
        assert report.failed is not None and "adapter" in report.failed.detail


def test_a_policy_about_another_attribute_than_the_certificates_fails(
    directory: Callable[..., Path], removed: Facts, issuer_key: Path
) -> None:
    report = verify(directory(dataclasses.replace(removed, attributes=(dataclasses.replace(SEX, name="age"),))), key=issuer_key)

    assert report.failed is not None and "other attributes" in report.failed.detail


def test_every_field_about_an_attribute_is_documented(directory: Callable[..., Path], removed: Facts) -> None:
    document = (Path(__file__).parents[2] / "CERTIFICATE.md").read_text()
    documented = {word for text in re.findall(r"`([^`\n]+)`", document) for word in re.findall(r"\w+", text)}
    where = directory(removed)

    said = payload((where / "certificate.sigstore.json").read_bytes())["predicate"]
    rules = json.loads((where / "policy.json").read_bytes())

    fields = {key for entry in (*said["findings"], *said["attributes"], *said["attributes"][0]["figures"]) for key in entry}
    assert fields | {key for entry in rules["thresholds"] for key in entry} <= documented
    assert {LEAKAGE, DROP, PROBES, ACCURACY} <= documented
