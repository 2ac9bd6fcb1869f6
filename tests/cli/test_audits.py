"""Audits from the command line: findings in plain words, exit codes, and statements that `expunge verify` accepts."""

from __future__ import annotations

from tests.cli.conftest import Site


def test_an_audit_is_followed_told_in_words_and_its_evidence_verified(site: Site) -> None:
    done = site.run("audit", "digits", "--audits", "utility,distance", "--wait", "--out", "evidence")
    verified = site.run("verify", "evidence", "--fingerprint", site.fingerprint)

    assert "calibration" in done.stdout and "Cells of fewer than 20 rows are withheld" in done.stdout
    assert "An audit never proves that there is no leak." in done.stdout
    assert "Verified" in verified.stdout


def test_an_audit_of_a_stranger_s_evidence_is_not_verified(site: Site) -> None:
    site.run("audit", "digits", "--audits", "utility", "--wait", "--out", "other")
    report = site.json("verify", "other", check=2)

    assert report["signer_known"] is False
    assert site.run("verify", "other", "--fingerprint", "0" * 64, check=1).returncode == 1


def test_an_audit_as_json_is_the_statement_itself(site: Site) -> None:
    said = site.json("audit", "digits", "--audits", "utility", "--wait")

    assert said["predicateType"] == "urn:expunge:audit:v1"
    assert {found["answer"] for found in said["predicate"]["findings"]} == {"reported"}
