"""Every command and every line of Python in README.md is run, in order, against a service that the README itself starts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from service.settings import Settings
from tests.servers import free_port, no_servers, private_postgres, private_redis

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"^```(.*?)\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def script(port: int) -> str:
    """All blocks as one shell script that stops at the first failure and ends the service that it started."""
    parts = ["set -euo pipefail", 'trap "kill %1; wait" EXIT']
    for language, text in BLOCKS:
        if language == "sh":
            parts.append(text.replace("http://127.0.0.1:8000", f"http://127.0.0.1:{port}"))
        elif language == "python":
            parts.append(f"python - <<'PYTHON'\n{text}PYTHON")
    return "\n".join(parts)


def test_every_block_is_of_a_kind_that_is_checked_here() -> None:
    assert {language for language, _ in BLOCKS} == {"sh", "sh make", "sh install", "sh compose", "sh servers", "python"}


def test_the_make_targets_and_the_extras_that_are_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    targets = re.findall(r"make (\w+)", "".join(text for language, text in BLOCKS if language == "sh make"))
    named = re.findall(r"\[([\w,]+)\]", "".join(text for language, text in BLOCKS if language == "sh install"))

    assert targets and all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    assert named and set(",".join(named).split(",")) <= set(extras)


def environment(folder: Path, port: int) -> dict[str, str]:
    """A shell's environment in which `python` and `expunge` are those under test."""
    (folder / "bin").mkdir()
    for name, module in (("python", ""), ("expunge", "-m expunge.cli ")):
        (folder / "bin" / name).write_text(f'#!/bin/sh\nexec {sys.executable} {module}"$@"\n')
        (folder / "bin" / name).chmod(0o755)
    own = {k: v for k, v in os.environ.items() if not k.startswith("EXPUNGE_")}
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    return own | {"PATH": path, "PYTHONPATH": str(ROOT), "EXPUNGE_PORT": str(port), "OMP_NUM_THREADS": "1"}


def test_the_compose_commands_name_services_files_and_paths_that_there_are() -> None:
    (text,) = (text for language, text in BLOCKS if language == "sh compose")
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]

    named = re.findall(r"exec (\w+)", text) + re.findall(r"--scale (\w+)=", text)
    keys = re.findall(r"cat (\S+)", text)

    assert set(named) == {"api", "worker"} <= set(services)
    assert keys == [services["api"]["command"][-1]]
    assert (ROOT / re.findall(r"^cp (\S+)", text, re.MULTILINE)[0]).exists()
    assert "POSTGRES_PASSWORD=" in (ROOT / ".env.example").read_text().splitlines()


def test_the_table_of_variables_names_settings_that_there_are() -> None:
    table = re.findall(r"^\| (`EXPUNGE_.*?) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    named = {name.lower() for line in table for name in re.findall(r"`EXPUNGE_(\w+)`", line)}

    assert {"database_url", "redis_url", "blobs", "keys_dir", "host", "port"} <= named <= set(Settings.model_fields)


@pytest.mark.slow
def test_servers_api_and_worker_by_hand_run_as_printed(tmp_path: Path) -> None:
    if no_servers():
        pytest.skip(str(no_servers()))
    (text,) = (text for language, text in BLOCKS if language == "sh servers")
    port = free_port()
    # Printed, the doctor is asked once; here at once after the start, and so until all is well.
    text = text.replace("expunge doctor\n", "until expunge doctor --json > doctor.json; do sleep 1; done\n")
    ending = 'trap "kill %1 %2; wait" EXIT'
    with private_postgres() as postgres, private_redis() as redis:
        text = text.replace("127.0.0.1:5432", f"127.0.0.1:{postgres.port}").replace("127.0.0.1:6379", f"127.0.0.1:{redis.port}")
        done = subprocess.run(["bash", "-c", f"set -eu\n{ending}\n{text}"], cwd=tmp_path, env=environment(tmp_path, port),
                              capture_output=True, text=True, timeout=120, check=False)  # fmt: skip

    found = {check["name"]: check["said"] for check in json.loads((tmp_path / "doctor.json").read_text())["checks"]}
    assert done.returncode == 0, done.stdout + done.stderr
    assert found["form"] == "distributed" and found["workers"] == "1 for cpu"
    assert (tmp_path / "key.txt").stat().st_mode & 0o777 == 0o600


def test_the_quick_start_runs_as_printed(tmp_path: Path) -> None:
    port = free_port()
    own = environment(tmp_path, port)

    done = subprocess.run(["bash", "-c", script(port)], cwd=tmp_path, env=own, capture_output=True, text=True, timeout=200, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "25  forgotten" in done.stdout
    assert "Verified: v2 is what its certificate says." in done.stdout
    assert "The very bits of the certificate." in done.stdout
    assert '"state":"done"' in done.stdout and "{'forgotten': 26}" in done.stdout
    assert {"core.safetensors", "certificate.sigstore.json"} < {entry.name for entry in (tmp_path / "v4").iterdir()}
    assert "Traceback" not in done.stderr
