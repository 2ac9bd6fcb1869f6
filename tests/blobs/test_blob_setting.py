"""One setting says where blobs are; what it does not name is not loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from service.blobs import NoSuchStore, open_vault
from service.blobs.directory import DirectoryStore


@pytest.mark.parametrize(("blobs", "where"), [("", "data/blobs"), ("directory:", "data/blobs"), ("directory:{}/else where", "else where")])
def test_a_directory_is_the_data_directorys_own_or_the_one_named(tmp_path: Path, blobs: str, where: str) -> None:
    vault = open_vault(blobs.format(tmp_path), tmp_path / "keys", data_dir=tmp_path / "data", database_url="sqlite://")

    vault.put("up-1", b"x")

    assert isinstance(vault.blobs, DirectoryStore)
    assert [path.name for path in (tmp_path / where).iterdir()] == ["up-1.blob"]
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["up-1.key"]


@pytest.mark.parametrize("blobs", ["x", "file:/tmp", "Directory:", "/var/lib/blobs"])
def test_a_setting_that_names_no_place_is_refused_with_those_there_are(tmp_path: Path, blobs: str) -> None:
    with pytest.raises(NoSuchStore, match="directory:PATH, postgres:, s3://"):
        open_vault(blobs, tmp_path / "keys", data_dir=tmp_path, database_url=None)


@pytest.mark.parametrize(
    ("blobs", "url"), [("postgres:", None), ("postgres:", "sqlite:///x"), ("postgres:postgresql://u:secret@h/d", "postgresql://h")]
)
def test_postgres_needs_the_service_database_and_takes_no_other(tmp_path: Path, blobs: str, url: str | None) -> None:
    with pytest.raises(NoSuchStore, match="EXPUNGE_DATABASE_URL") as raised:
        open_vault(blobs, tmp_path / "keys", data_dir=tmp_path, database_url=url)

    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("blobs", "loaded"),
    [("directory:", set()), ("postgres:", {"psycopg", "sqlalchemy"}), ("s3://bucket", {"obstore"})],
)
def test_a_client_library_is_loaded_only_where_it_is_needed(tmp_path: Path, repository: Path, blobs: str, loaded: set[str]) -> None:
    script = (
        "import sys, pathlib; from service.blobs import open_vault; root = pathlib.Path(sys.argv[1]);"
        "open_vault(sys.argv[2], root / 'keys', data_dir=root, database_url='postgresql+psycopg://u@127.0.0.1:1/d');"
        "print(*{'psycopg', 'sqlalchemy', 'obstore', 'torch', 'fastapi'} & set(sys.modules))"
    )

    done = subprocess.run([sys.executable, "-c", script, str(tmp_path), blobs], cwd=repository, capture_output=True, text=True, check=True)

    assert set(done.stdout.split()) == loaded
