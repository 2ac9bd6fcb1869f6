"""Law L4: who talks to the service, or verifies, needs none of its packages; who needs them is told what to install."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"models", "service", "workers"}
EXTRAS = {"torch", "fastapi", "starlette", "uvicorn", "sqlalchemy", "celery", "pyarrow", "numpy", "scipy", "sklearn"}

# A base install, as an interpreter sees it: the packages of the extras cannot be found.
BASE_INSTALL = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(EXTRAS)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""


def python(code: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True, check=False,
                          env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(cwd)})


@pytest.mark.parametrize("module", ["expunge.cli", "expunge.client", "expunge.verify"])
def test_importing_a_client_module_loads_no_package_of_the_service(module: str, tmp_path: Path) -> None:
    done = python(f"import {module}, sys; print(*{{m.partition('.')[0] for m in sys.modules}})", cwd=tmp_path)

    loaded = set(done.stdout.split())

    assert module.partition(".")[0] in loaded, done.stderr
    assert not loaded & (EXTRAS | OURS | {"pydantic"})


@pytest.mark.parametrize("command", [("verify", "nowhere"), ("forget", "m", "--id", "a")])
def test_a_client_command_runs_on_a_base_install(command: tuple[str, ...], tmp_path: Path) -> None:
    code = f"{BASE_INSTALL}\nimport os\nos.environ['EXPUNGE_URL'] = 'http://127.0.0.1:9'\nfrom expunge.cli import main\nmain()"

    done = python(code, *command, cwd=tmp_path)

    assert done.returncode == 1
    assert "No service answers" in done.stderr or "cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [("serve",), ("worker",), ("migrate",), ("doctor",), ("demo",), ("reproduce", "v", "--data", "d")])
def test_a_command_that_needs_more_says_what_to_install(command: tuple[str, ...], tmp_path: Path) -> None:
    done = python(f"{BASE_INSTALL}\nfrom expunge.cli import main\nmain()", *command, cwd=tmp_path)

    assert done.returncode == 1
    assert "pip install 'expunge[service,worker]'" in done.stderr
    assert "Traceback" not in done.stderr
