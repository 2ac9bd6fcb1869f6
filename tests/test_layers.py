"""The laws of the house, each checked in a fresh interpreter or in the sources."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

ROOT = Path(__file__).parent.parent
MATHEMATICS = {"torch", "numpy", "scipy", "sklearn", "concept_erasure", "threadpoolctl", "models"}
PURE = {
    "__future__",
    "abc",
    "collections",
    "contextlib",
    "copy",
    "dataclasses",
    "enum",
    "functools",
    "hashlib",
    "hmac",
    "itertools",
    "math",
    "typing",
    "types",
}


def loaded_by(statement: str) -> set[str]:
    """Top-level names of the modules that a fresh interpreter has loaded after a statement."""
    code = f"{statement}\nimport sys\nprint(*sorted({{m.partition('.')[0] for m in sys.modules}}))"
    return set(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split())


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "models").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_l1_models_import_only_mathematics_and_no_clock_no_files_no_settings(path: Path) -> None:
    foreign = imports_of(path) - MATHEMATICS - PURE
    calls = {n.func.id for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}

    assert not foreign
    assert not calls & {"open", "print", "eval", "exec", "input"}


def test_l2_importing_the_app_loads_neither_torch_nor_models_nor_workers() -> None:
    loaded = loaded_by("import service.app")

    assert "fastapi" in loaded
    assert not loaded & {"torch", "models", "workers", "sklearn", "scipy"}


def test_l3_the_worker_loads_no_http_and_its_runner_no_torch() -> None:
    runner, child = loaded_by("import workers.runner"), loaded_by("import workers.child")

    assert "torch" in child
    assert not (runner | child) & {"fastapi", "starlette", "uvicorn", "celery"}
    assert "torch" not in runner
    assert not child & {"sqlalchemy", "sklearn", "matplotlib"}  # what a job does not need is not waited for at every start


@pytest.mark.parametrize("module", ["expunge", "expunge.cli", "expunge.client", "expunge.verify"])
def test_l4_the_outside_view_needs_no_server_and_no_torch(module: str) -> None:
    loaded = loaded_by(f"import {module}")

    assert not loaded & {
        "torch",
        "fastapi",
        "starlette",
        "sqlalchemy",
        "celery",
        "pydantic",
        "service",
        "workers",
        "models",
        "pyarrow",
        "numpy",
    }


def test_l5_only_jobs_py_writes_the_tables_jobs_and_events() -> None:
    """Nobody else makes a Job or an Event, updates or deletes one, or sets an attribute of a row named job."""
    guilty = []
    for path in [*(ROOT / "service").rglob("*.py"), *(ROOT / "workers").rglob("*.py")]:
        if path.name == "jobs.py" and path.parent.name == "service":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            of_table = isinstance(node, ast.Call) and bool(node.args) and ast.unparse(node.args[0]) in ("Job", "Event")
            writes = called in ("Job", "Event") or (called in ("update", "delete", "insert") and of_table)
            sets = isinstance(node, ast.Assign) and any(ast.unparse(t).startswith("job.") for t in node.targets)
            if writes or sets:
                guilty.append(f"{path.relative_to(ROOT)}:{node.lineno}")

    assert not guilty


def test_l6_methods_that_can_be_asked_for_are_the_methods_there_are() -> None:
    from models.forget import METHODS
    from service.requests import WHY
    from service.schemas import Method

    assert set(get_args(Method)) == set(METHODS) == set(WHY)


def test_l6_attributes_are_removed_by_the_methods_there_are() -> None:
    from models.erase import METHODS
    from service.attributes import WHY
    from service.removal import ERASE_OPTIONS, EraseMethod

    assert set(get_args(EraseMethod)) == set(METHODS) == set(WHY) - {"auto"} == set(ERASE_OPTIONS) - {"auto"}


@pytest.mark.parametrize("package", ["models", "service", "workers", "expunge", "benchmarks", "deploy", "tests"])
def test_files_stay_under_400_lines_and_functions_under_60(package: str) -> None:
    long = []
    for path in (ROOT / package).rglob("*.py"):
        text = path.read_text()
        if text.count("\n") > 400:
            long.append(str(path))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                words = ast.get_docstring(node, clean=False)
                if (node.end_lineno or 0) - node.lineno + 1 - (words.count("\n") + 1 if words else 0) > 60:
                    long.append(f"{path}:{node.name}")

    assert not long


@pytest.mark.parametrize("package", ["models", "service", "workers", "expunge"])
def test_nothing_that_could_run_foreign_code_is_imported_or_called(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        tree = ast.parse(path.read_text())
        called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}

        assert not imports_of(path) & {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}, path
        assert not called & {"eval", "exec"}, path
        assert "torch.load" not in path.read_text(), path
