"""A linearised model on the command line: made, asked with a wish, downloaded, verified, and its release compared with a refit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.conftest import Done, Site, expunge


@dataclass(frozen=True)
class Whole:
    """A downloaded second version, and the ids forgotten for it."""

    folder: Path
    made: str
    asked: str


@pytest.fixture(scope="module")
def whole(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    (folder / "spec.json").write_text(json.dumps({"architecture": {"name": "convnet", "hidden": [4, 4, 6, 6]}, "ridge": 3.0}))
    site.run("dataset", "upload", str(site.data), "--name", "linearised", "--wait")
    form = ["--linearize", "stage4, fc", "--mu-max", "0.25", "--sigma", "0.1", "--noise", "core", "--epochs", "3"]
    create = ["model", "create", "--name", "linearised", "--dataset", "linearised", "--spec", str(folder / "spec.json")]
    made = site.run(*create, *form, "--wait")
    site.run("download", "linearised", "--out", str(folder / "v1"))
    asked = site.run("forget", "linearised", "--id", site.ids("user")[0], "--method", "cg", "--epsilon", "0.5", "--delta", "1e-5", "--wait")
    site.run("download", "linearised", "--out", str(folder / "v2"))
    (folder / "gone.txt").write_text(site.ids("user")[0])
    return Whole(folder, made.stdout, asked.stdout)


def reproduced(site: Site, whole: Whole, version: str, forgotten: str) -> Done:
    done = expunge("reproduce", version, "--data", str(site.data), "--forgotten", forgotten, "--json", cwd=whole.folder)
    return Done(done.returncode, done.stdout, done.stderr)


def test_model_and_request_say_what_is_linearised_and_guaranteed(whole: Whole) -> None:
    assert "stage4, fc" in whole.made
    assert "Guarantee: gaussian_indistinguishable, mu 0.1" in whole.asked
    assert "at delta 1e-05" in whole.asked


def test_a_first_version_and_a_release_both_verify(site: Site, whole: Whole) -> None:
    first, second = (site.run("verify", str(whole.folder / v), "--fingerprint", site.fingerprint).stdout for v in ("v1", "v2"))

    assert "linearised-v1: a first version, nothing is forgotten" in first
    assert "gaussian_indistinguishable proved, mu = 0.1" in second


@pytest.mark.slow
def test_a_release_lies_from_the_refit_as_far_as_its_noise_explains(site: Site, whole: Whole) -> None:
    (whole.folder / "nobody.txt").write_text("")

    release, first = reproduced(site, whole, "v2", "gone.txt"), reproduced(site, whole, "v1", "nobody.txt")

    found = json.loads(release.stdout)
    assert (release.returncode, first.returncode) == (0, 0), release.stderr + first.stderr
    assert found["low"] < found["squared"] < found["high"] and found["left_out"] == 1
    assert json.loads(first.stdout)["squared"] <= 0.25**2


@pytest.mark.slow
def test_other_rows_do_not_explain_a_release(site: Site, whole: Whole) -> None:
    (whole.folder / "half.txt").write_text("\n".join(site.ids("user")[::2]))

    done = reproduced(site, whole, "v2", "half.txt")

    assert done.returncode == 3
    assert json.loads(done.stdout)["meaning"].startswith("The noise does not explain this distance")


def test_a_wish_that_is_not_met_exits_1_and_says_why(site: Site, whole: Whole) -> None:
    done = site.run("forget", "linearised", "--id", site.ids("user")[1], "--nats", "1e-9", "--most-passes", "3", "--wait", check=1)

    assert "refused" in done.stdout
    assert "Asked for mu 4.47213e-05" in done.stderr
