"""Versions made by training again, and by forgetting, are reproduced from the raw file; where one is not, it is said how far it is off."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cli.conftest import Site, expunge

pytestmark = pytest.mark.xdist_group("cli")


@pytest.mark.slow
def test_a_version_trained_again_without_a_core_sample_is_reproduced_with_its_core(site: Site, tmp_path: Path) -> None:
    site.run("dataset", "upload", str(site.data), "--name", "whole", "--wait")
    site.run("model", "create", "--name", "retrained", "--dataset", "whole", "--architecture", "mlp", "--epochs", "3", "--wait")
    gone, later = [site.ids("core")[5], site.ids("user")[5]], site.ids("user")[6]
    site.run("forget", "retrained", "--id", gone[0], "--id", gone[1], "--method", "retrain", "--wait")
    site.run("download", "retrained", "--out", str(tmp_path / "v2"))
    site.run("forget", "retrained", "--id", later, "--wait")
    site.run("download", "retrained", "--out", str(tmp_path / "v3"))
    (tmp_path / "first.json").write_text(json.dumps(gone))
    (tmp_path / "second.txt").write_text(later)

    again = reproduced(site, tmp_path, "v2", "first.json")
    after = reproduced(site, tmp_path, "v3", "first.json", "second.txt")

    assert again["equal"] and again["proved"] == "equal_to_retrain"
    assert set(again["digests"]) == {"statistics", "user weights", "user.safetensors", "core.safetensors"}
    assert after["equal"] and after["proved"] == "equal_to_refit"  # on the core that the retraining made, without its core sample


def reproduced(site: Site, cwd: Path, version: str, *lists: str) -> dict[str, Any]:
    forgotten = [word for name in lists for word in ("--forgotten", name)]
    done = expunge("reproduce", version, "--data", str(site.data), *forgotten, "--json", cwd=cwd)
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def audited(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the second version of the model `audited`, and with the ids forgotten for it."""
    folder = tmp_path_factory.mktemp("audited")
    site.run("dataset", "upload", str(site.data), "--name", "audited", "--wait")
    site.run("model", "create", "--name", "audited", "--dataset", "audited", "--architecture", "mlp", "--epochs", "3", "--wait")
    site.run("forget", "audited", "--id", site.ids("user")[5], "--wait")
    site.run("download", "audited", "--out", str(folder / "v2"))
    (folder / "gone.txt").write_text(site.ids("user")[5])
    return folder


def with_service(site: Site, audited: Path, data: Path, *more: str, key: str = "", url: str = "") -> subprocess.CompletedProcess[str]:
    return expunge("reproduce", "v2", "--data", str(data), "--forgotten", "gone.txt", "--service", *more, cwd=audited,
                   EXPUNGE_URL=url or site.url, EXPUNGE_API_KEY=key or site.key)


def changed(source: Path, sample: str, out: Path) -> Path:
    """The same file, but for one pixel of one sample."""
    table = pq.read_table(source)
    place, images = table["sample_id"].to_pylist().index(sample), table["image"].to_pylist()
    images[place] = bytes([255 - images[place][27]]).join((images[place][:27], images[place][28:]))
    column = table.column_names.index("image")
    pq.write_table(table.set_column(column, "image", pa.array(images, table["image"].type)), out)
    return out


def test_of_the_same_samples_no_integer_differs_from_the_services(site: Site, audited: Path) -> None:
    auditor = site.json("key", "new", "auditor", "--scope", "model:admin")

    done = with_service(site, audited, site.data, key=auditor["key"])

    assert done.returncode == 0, done.stderr
    assert "  0 of the " in done.stdout
    assert "The very bits of the certificate." in done.stdout


def test_of_a_changed_sample_the_integers_that_differ_are_counted(site: Site, audited: Path, tmp_path: Path) -> None:
    done = with_service(site, audited, changed(site.data, site.ids("user")[9], tmp_path / "changed.parquet"), "--json")

    found = json.loads(done.stdout)
    assert done.returncode == 3
    assert 0 < found["differing_integers"] < found["integers"]
    assert 0 < found["largest"] < found["size"]
    assert found["same_file"] is False


@pytest.mark.slow
def test_the_sums_of_another_version_are_not_compared_and_other_keys_get_none(site: Site, audited: Path) -> None:
    reader = site.json("key", "new", "reader", "--scope", "model:read", "--scope", "model:download")

    refused = with_service(site, audited, site.data, key=reader["key"])
    site.run("forget", "audited", "--id", site.ids("user")[6], "--wait")
    moved_on = with_service(site, audited, site.data)

    assert (refused.returncode, moved_on.returncode) == (1, 1)
    assert "lacks the scope model:admin" in refused.stderr
    assert "holds the sums of another version" in moved_on.stderr


class Page(BaseHTTPRequestHandler):
    """Answers everything with a web page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>Welcome</html>")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """The address of a server that is no Expunge service."""
    with HTTPServer(("127.0.0.1", 0), Page) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_an_answer_that_holds_no_sums_is_told_in_a_sentence(site: Site, audited: Path, elsewhere: str) -> None:
    done = with_service(site, audited, site.data, url=elsewhere)

    assert done.returncode == 1
    assert f"What {elsewhere} answers holds no sums" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
