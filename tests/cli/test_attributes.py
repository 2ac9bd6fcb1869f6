"""Removing an attribute from the command line: the findings in plain words, and wrong usage."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from expunge import erased
from tests.attributed import people
from tests.cli.conftest import Site


@pytest.fixture(scope="module")
def table(site: Site) -> str:
    pq.write_table(people(2, missing=0.1, rows=2000), site.work / "table.parquet")
    site.run("dataset", "upload", "table.parquet", "--name", "table", "--wait")
    site.run("model", "create", "--name", "table", "--dataset", "table", "--architecture", "mlp", "--epochs", "4", "--wait")
    return "table"


def test_findings_are_told_in_plain_words_and_a_removal_is_downloaded_verified_and_reproduced(site: Site, table: str) -> None:
    asked = ("forget", table, "--attribute", "group", "--method", "auto", "--claim", "linear", "--max-accuracy-drop", ".05",
             "--max-leakage-nats", ".08")  # fmt: skip

    said = site.run(*asked, "--wait").stdout
    site.run("download", table, "--out", "erased")
    verified = site.run("verify", "erased", "--fingerprint", site.fingerprint).stdout
    again = site.run("reproduce", "erased", "--data", "table.parquet", "--fingerprint", site.fingerprint).stdout
    shown = site.run("versions", table).stdout

    assert "The attribute group is removed, by leace." in said
    assert "ok: linear readers find at most" in said and "(asked for: 0.08)" in said
    assert "caught 3 of 3 leaks planted" in said and "points of accuracy are lost" in said
    assert "Version 2 of table is certified" in said
    assert "Verified: erased is what its certificate says." in verified
    assert "PASSED follows from attribute-v1" in verified
    assert "The very bits of the certificate." in again and "bottleneck passes an adapter: group was removed" in again
    assert "leace" in shown


@pytest.mark.slow
def test_a_refusal_shows_the_best_point_and_exits_with_1(site: Site, table: str) -> None:
    site.run("model", "create", "--name", "table-2", "--dataset", table, "--architecture", "mlp", "--epochs", "4", "--wait")

    done = site.run("forget", "table-2", "--attribute", "group", "--method", "leace", "--max-leakage-nats", ".03", "--wait", check=1)

    assert "The best point reached is leace" in done.stderr
    assert "TOO MUCH: fresh probes" in done.stdout and "No new version was made." in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--attribute", "group", "--everything"), 2, "name what to forget"),
        (("--everything", "--max-leakage-nats", ".1"), 2, "--claim and --option go with"),
        (("--attribute", "group", "--option", "gamma"), 2, "NAME=VALUE"),
        (("--attribute", "shoe"), 1, "attribute_unknown"),
        (("--attribute", "group", "--method", "irene", "--option", "bits=3"), 1, "/options"),
    ],
)
def test_wrong_usage_is_told_by_name(site: Site, table: str, arguments: tuple[str, ...], code: int, said: str) -> None:
    done = site.run("forget", table, *arguments, check=code)

    assert said in " ".join(done.stderr.split())


def test_options_are_numbers_flags_or_words() -> None:
    assert erased.options(["gamma=3", "heads_first=true", "head=mlp", "rate=1e-3"]) == {
        "gamma": 3, "heads_first": True, "head": "mlp", "rate": 0.001}  # fmt: skip


def test_a_limit_that_is_all_there_is_to_know_is_said_to_be_cut_there() -> None:
    leakage = {"metric": erased.LEAKAGE, "value": "0.02", "threshold": "0.05", "reference": "0.693147", "caught": 3, "planted": 3, "n": 90}
    figures = [{"name": f"{name}.v_information_nats", "value": "0.01"} for name in ("linear", "mlp", "trees")]
    figures.append({"name": "attribute_entropy_nats", "value": "0.693147"})
    found = {"name": "group", "data": "core", "findings": [leakage], "figures": figures}

    said = erased.sentences(found)[0]
    leakage["value"] = leakage["reference"]
    worse = erased.sentences(found)[0]

    assert "at most 0.02 nats of group" in said and said.endswith("find up to 0.693 nats (cut at H(v)).")
    assert worse.startswith("TOO MUCH") and "at most 0.693 nats (cut at H(v)) of group" in worse
