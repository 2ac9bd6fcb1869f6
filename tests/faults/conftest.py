"""Faults strike real processes and servers: each test has its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.installation import Installation, installed
from tests.figures import figures
from tests.servers import no_servers

__all__ = ["figures"]

Install = Callable[..., Installation]


@pytest.fixture
def install(tmp_path: Path) -> Iterator[Install]:
    """Sets an installation up, with one small model unless told otherwise."""
    if missing := no_servers():
        pytest.skip(missing)
    with ExitStack() as stack:

        def start(*, models: int = 1, datasets: int = 1, furnished: bool = True, **settings: object) -> Installation:
            there = stack.enter_context(installed(tmp_path, **settings))  # type: ignore[arg-type]
            if furnished:
                there.furnish(models, datasets=datasets)
            return there

        yield start
