"""A version made by training again, and one made by forgetting on top of it, are both reproduced from the raw file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Site, expunge

pytestmark = pytest.mark.xdist_group("cli")


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
