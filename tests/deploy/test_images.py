"""What each image holds is enough for what it runs: the API's packages alone carry the API, on real servers."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from expunge.cli import COMPUTING
from tests.servers import no_servers, private_postgres, private_redis

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
MODULES = {"scikit-learn": "sklearn", "pillow": "PIL"}
WORKERS_ALONE = {MODULES.get(name, name) for name in (requirement.split(">")[0].split("=")[0] for requirement in EXTRAS["worker"])}

# The interpreter of the API's image: packages that only the worker's extra brings cannot be found.
API_IMAGE = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(WORKERS_ALONE)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from expunge.cli import main
main()
"""


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    missing = no_servers()
    if missing:
        pytest.skip(missing)
    own = {name: value for name, value in os.environ.items() if not name.startswith("EXPUNGE_")}
    with private_postgres() as postgres, private_redis() as redis:
        yield own | {"EXPUNGE_DATABASE_URL": postgres.url, "EXPUNGE_REDIS_URL": redis.url, "EXPUNGE_DATA_DIR": str(tmp_path / "data"),
                     "EXPUNGE_PORT": "0", "PYTHONPATH": str(ROOT)}  # fmt: skip


def test_the_api_starts_and_accepts_without_a_package_of_the_worker(environment: dict[str, str], tmp_path: Path) -> None:
    run = [sys.executable, "-c", API_IMAGE]

    migrated = subprocess.run([*run, "migrate"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False)
    serve = [*run, "serve", "--key-file", "key"]
    with subprocess.Popen(serve, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE) as serving:
        try:
            assert serving.stdout is not None
            address = serving.stdout.readline().split()[-1]
            ready = httpx.get(f"{address}/readyz", timeout=20)
            key = (tmp_path / "key").read_text().strip()
            asked = httpx.post(f"{address}/datasets?name=x", content=b"junk", headers={"Authorization": f"Bearer {key}"}, timeout=20)
        finally:
            serving.terminate()
            with suppress(subprocess.TimeoutExpired):
                serving.wait(20)
            serving.kill()

    assert set(COMPUTING) <= WORKERS_ALONE
    assert migrated.returncode == 0, migrated.stderr
    assert (ready.status_code, ready.json()["wrong"]) == (200, ["no worker gave a sign of life of late"])
    assert asked.status_code == 422 and asked.json()["code"].startswith("parquet"), asked.text


@pytest.mark.slow
def test_a_worker_without_torch_says_what_to_install_and_ends(environment: dict[str, str], tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", API_IMAGE, "migrate"], cwd=tmp_path, env=environment, timeout=60, check=True)

    worker = [sys.executable, "-c", API_IMAGE, "worker"]
    ended = subprocess.run(worker, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=30, check=False)
    embedded = {name: value for name, value in environment.items() if name not in ("EXPUNGE_DATABASE_URL", "EXPUNGE_REDIS_URL")}
    serve = [sys.executable, "-c", API_IMAGE, "serve"]
    alone = subprocess.run(serve, cwd=tmp_path, env=embedded, capture_output=True, text=True, timeout=30, check=False)

    for done in (ended, alone):
        assert done.returncode == 1
        assert "needs the package torch" in done.stderr and "pip install 'expunge[service,worker]'" in done.stderr
