"""Every command and every line of Python in README.md is run, in order, against a service that the README itself starts."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"^```(.*?)\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
    assert {language for language, _ in BLOCKS} == {"sh", "sh make", "sh install", "python"}


def test_the_make_targets_and_the_extras_that_are_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    targets = re.findall(r"make (\w+)", "".join(text for language, text in BLOCKS if language == "sh make"))
    named = re.findall(r"\[([\w,]+)\]", "".join(text for language, text in BLOCKS if language == "sh install"))

    assert targets and all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    assert named and set(",".join(named).split(",")) <= set(extras)


def test_the_quick_start_runs_as_printed(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "bin").mkdir()
    for name, module in (("python", ""), ("expunge", "-m expunge.cli ")):
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nexec {sys.executable} {module}"$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    own = {k: v for k, v in os.environ.items() if not k.startswith("EXPUNGE_")}
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    own |= {"PATH": path, "PYTHONPATH": str(ROOT), "EXPUNGE_PORT": str(port), "OMP_NUM_THREADS": "1"}

    done = subprocess.run(["bash", "-c", script(port)], cwd=tmp_path, env=own, capture_output=True, text=True, timeout=200, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "25  forgotten" in done.stdout
    assert "Verified: v2 is what its certificate says." in done.stdout
    assert "The very bits of the certificate." in done.stdout
    assert '"state":"done"' in done.stdout and "{'forgotten': 26}" in done.stdout
    assert {"core.safetensors", "certificate.sigstore.json"} < {entry.name for entry in (tmp_path / "v4").iterdir()}
    assert "Traceback" not in done.stderr
