"""Where the blob tests run: every adapter passes the same suite. A new adapter is one more entry in ADAPTERS."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from service.blobs import Vault, directory_vault


@dataclass(frozen=True)
class Place:
    """One empty vault, and what only a test may know of it."""

    vault: Vault

    address: str
    """An expression that opens the same vault in another process."""

    at_rest: Callable[[], bytes]
    """Every byte that the adapter keeps, keys and names among them; empty when nothing is stored."""


def _directory(root: Path) -> Place:
    blobs, keys = root / "blobs", root / "keys"

    def at_rest() -> bytes:
        files = sorted(file for tree in (blobs, keys) for file in tree.rglob("*"))
        return b"".join(os.fsencode(file.name) + file.read_bytes() for file in files)

    address = (
        f"__import__('service.blobs', fromlist=['x']).directory_vault("
        f"__import__('pathlib').Path({str(blobs)!r}), __import__('pathlib').Path({str(keys)!r}))"
    )
    return Place(directory_vault(blobs, keys), address, at_rest)


ADAPTERS = {"directory": _directory}


@pytest.fixture(params=ADAPTERS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty vault with a way in from another process and a view of all its bytes at rest."""
    return ADAPTERS[request.param](tmp_path)


@pytest.fixture
def vault(place: Place) -> Vault:
    """An empty vault."""
    return place.vault


@pytest.fixture
def address(place: Place) -> str:
    """An expression that opens the vault in another process."""
    return place.address


@pytest.fixture
def at_rest(place: Place) -> Callable[[], bytes]:
    """Everything that the vault keeps, as bytes."""
    return place.at_rest


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root from which another process imports the same code."""
    return Path(__file__).parents[2]
