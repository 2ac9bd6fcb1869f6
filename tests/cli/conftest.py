"""One running service for all command-line tests, with a small fitted model on digits; and the command line to call it with."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from expunge import embedded, example
from expunge.cli import main
from expunge.client import Client

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Done:
    """What a command left."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Site:
    """A service, the data set that it was given, and how to call the command line against it."""

    url: str
    key: str
    fingerprint: str
    data: Path
    work: Path

    def run(self, *arguments: str, check: int = 0, **environment: str) -> Done:
        """Run a client command within this process, which saves a second each time; fails unless it exits with `check`."""
        out, err, code = io.StringIO(), io.StringIO(), 0
        names = {"EXPUNGE_URL": self.url, "EXPUNGE_API_KEY": self.key, "COLUMNS": "100"} | environment
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.chdir(self.work)
            patch.setattr(sys, "argv", ["expunge", *arguments])
            for name, value in names.items():
                patch.setenv(name, value)
            try:
                main()
            except SystemExit as end:
                code = int(end.code or 0)
        assert code == check, f"{arguments} -> {code}\n{out.getvalue()}\n{err.getvalue()}"
        return Done(code, out.getvalue(), err.getvalue())

    def json(self, *arguments: str, check: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", check=check).stdout)

    def client(self) -> Client:
        return Client(self.url, self.key)

    def ids(self, role: str) -> list[str]:
        table = pq.read_table(self.data, columns=["sample_id", "role"]).to_pylist()
        return [row["sample_id"] for row in table if row["role"] == role]


def expunge(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run any command as a user does, in a process of its own."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("EXPUNGE_")} | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    return subprocess.run([sys.executable, "-m", "expunge.cli", *arguments], cwd=cwd, env=own | {"PYTHONPATH": str(ROOT)} | environment,
                          capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A service with the data set `digits` and the model `digits`, fitted in 5 epochs."""
    folder = tmp_path_factory.mktemp("site")
    data, work = folder / "digits.parquet", folder / "work"
    work.mkdir()
    example.write_digits(data, seed=0)
    with embedded.service(folder / "data") as running, Client(running.url, running.key) as client:
        client.wait(client.upload_dataset(data, "digits")["job"])
        model = client.create_model("digits", "digits", "convnet", expected_rows=749, training={"epochs": 5})
        assert client.wait(model["job"])["state"] == "done"
        yield Site(running.url, running.key, client.signing_keys()[0]["fingerprint"], data, work)
