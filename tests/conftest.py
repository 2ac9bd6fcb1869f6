"""Fixtures for tests that talk to a running service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.digits import Digits, digits, parquet
from tests.live import Live


@pytest.fixture(scope="session")
def data() -> Digits:
    return digits()


@pytest.fixture(scope="session")
def upload(data: Digits, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return parquet(data, tmp_path_factory.mktemp("parquet") / "digits.parquet")


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory, upload: bytes) -> Iterator[Live]:
    """One service for all tests of a session, with the data set `digits`; every test makes its own model."""
    service = Live(tmp_path_factory.mktemp("live"))
    service.upload("digits", upload)
    yield service
    service.stop()


@pytest.fixture
def own_live(tmp_path: Path, upload: bytes) -> Iterator[Live]:
    """A service of one test's own, which it may kill."""
    service = Live(tmp_path)
    service.upload("digits", upload)
    yield service
    service.stop()
