"""What goes wrong is told in sentences: what, where, what next. Never a traceback, and the exit code says which kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Site, expunge

pytestmark = pytest.mark.xdist_group("cli")


@pytest.mark.parametrize(("command", "code", "words"), [
    (("model", "show", "nobody"), 1, ["There is no such model", "expunge model list"]),
    (("model", "create", "--name", "m", "--dataset", "digits", "--architecture", "vgg"), 1, ["at /architecture/name", "convnet"]),
    (("model", "create", "--name", "m"), 2, ["--dataset", "--architecture"]),
    (("model", "create", "--name", "digits", "--dataset", "digits", "--architecture", "mlp"), 1, ["at /name: taken"]),
    (("forget", "digits"), 2, ["--everything"]),
    (("forget", "digits", "--id", "a", "--everything"), 2, ["--everything"]),
    (("forget", "digits", "--where", "sex"), 2, ["ATTR=VALUE"]),
    (("forget", "digits", "--where", "sex=f"), 1, ["This data set has the attributes: none"]),
    (("forget", "digits", "--label", "three"), 1, ["a whole number"]),
    (("forget", "digits", "--ids-file", "missing.txt"), 1, ["missing.txt: No such file"]),
    (("download", "digits", "99"), 1, ["There is no such version", "expunge versions"]),
    (("dataset", "upload", "missing.parquet", "--name", "x"), 1, ["missing.parquet: No such file"]),
    (("verify", "missing"), 1, ["step 1", "files present"]),
    (("verify", "http://127.0.0.1:9/models"), 2, ["/models/MODEL/versions/VERSION"]),
    (("no-such-command",), 2, ["no-such-command"]),
    (("key", "new", "x", "--scope", "everything"), 1, ["at /scopes/0"]),
])
def test_a_mistake_is_told_in_sentences(site: Site, command: tuple[str, ...], code: int, words: list[str]) -> None:
    done = site.run(*command, check=code)

    told = " ".join(done.stderr.replace("│", " ").split())
    assert all(word in told for word in words), done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_not_parquet_is_refused_and_leaves_its_name_free(site: Site, tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("not parquet")

    done = site.run("dataset", "upload", str(tmp_path / "text.parquet"), "--name", "text", check=1)

    assert "not a readable Parquet file" in done.stderr
    assert "text" not in [d["name"] for d in site.json("dataset", "list")]


def test_with_json_a_refusal_is_json_too(site: Site) -> None:
    done = site.run("model", "show", "nobody", "--json", check=1)

    assert json.loads(done.stdout)["problem"]["code"] == "model_not_found"


def test_without_a_service_the_command_says_how_to_start_one(tmp_path: Path) -> None:
    done = expunge("jobs", "list", cwd=tmp_path, EXPUNGE_URL="http://127.0.0.1:9")

    assert done.returncode == 1
    assert "expunge serve" in done.stderr
    assert "Traceback" not in done.stderr


def test_serve_refuses_to_leave_the_machine_and_to_share_a_data_directory(site: Site, tmp_path: Path) -> None:
    outside = expunge("serve", "--host", "0.0.0.0", cwd=tmp_path)
    shared = expunge("serve", "--port", "0", "--data-dir", str(site.data.parent / "data"), cwd=tmp_path)

    assert (outside.returncode, shared.returncode) == (1, 1)
    assert "loopback only" in outside.stderr
    assert "another service uses" in shared.stderr
