"""What is true of the directory alone: modes, files on disk, and damage done to files."""

import os
import random
from pathlib import Path

import pytest

from service.blobs import BlobDamaged, BlobExists, BlobMissing, KeyMissing, Vault, directory_vault
from service.blobs.keys import KeyDirectory, KeysExposed
from service.blobs.port import CHUNK, RECORD, TRAILER

PLAIN = random.Random(6).randbytes(3 * CHUNK)


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return directory_vault(tmp_path / "blobs", tmp_path / "keys")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_files_are_for_their_owner_alone_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    earlier = os.umask(umask)
    try:
        directory_vault(tmp_path / "a" / "blobs", tmp_path / "a" / "keys").put("up-1", PLAIN)
    finally:
        os.umask(earlier)

    assert [mode(tmp_path / "a" / name) for name in ("blobs", "keys")] == [0o700, 0o700]
    assert [mode(tmp_path / "a" / name) for name in ("blobs/up-1.blob", "keys/up-1.key")] == [0o600, 0o600]


@pytest.mark.parametrize("wide", [0o755, 0o750, 0o701])
def test_a_key_directory_open_to_others_is_refused(tmp_path: Path, wide: int) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys").chmod(wide)

    with pytest.raises(KeysExposed, match="0700"):
        KeyDirectory(tmp_path / "keys")


def test_the_file_is_its_records_and_nothing_more(vault: Vault, tmp_path: Path) -> None:
    vault.put("up-1", PLAIN)

    assert (tmp_path / "blobs" / "up-1.blob").stat().st_size == 3 * RECORD + TRAILER
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["up-1.blob", "up-1.key"]


@pytest.mark.parametrize("length", [0, 1, TRAILER, *(k * RECORD + d for k in (1, 2, 3) for d in (-1, 0, 1, TRAILER - 1))])
def test_a_file_cut_anywhere_is_damaged(vault: Vault, tmp_path: Path, length: int) -> None:
    vault.put("up-1", PLAIN)

    os.truncate(tmp_path / "blobs" / "up-1.blob", length)

    with pytest.raises(BlobDamaged):
        vault.read("up-1")
    with pytest.raises(BlobDamaged):
        vault.stat("up-1")


@pytest.mark.parametrize("extra", [1, TRAILER, RECORD])
def test_a_lengthened_file_is_damaged(vault: Vault, tmp_path: Path, extra: int) -> None:
    vault.put("up-1", PLAIN)

    with (tmp_path / "blobs" / "up-1.blob").open("ab") as file:
        file.write(bytes(extra))

    with pytest.raises(BlobDamaged):
        vault.stat("up-1")


def test_two_files_swapped_are_damaged_with_or_without_their_keys(vault: Vault, tmp_path: Path) -> None:
    vault.put("up-1", PLAIN)
    vault.put("up-2", PLAIN[::-1])

    for pattern in ("blobs/{}.blob", "keys/{}.key"):  # First the files alone, then their keys as well.
        one, two = (tmp_path / pattern.format(blob_id) for blob_id in ("up-1", "up-2"))
        one.rename(tmp_path / "aside")
        two.rename(one)
        (tmp_path / "aside").rename(two)
        for blob_id in ("up-1", "up-2"):
            with pytest.raises(BlobDamaged):
                vault.read(blob_id)


def test_a_key_with_one_bit_changed_is_damage_and_a_torn_or_overwritten_key_is_gone(vault: Vault, tmp_path: Path) -> None:
    vault.put("up-1", PLAIN)
    path = tmp_path / "keys" / "up-1.key"
    key = path.read_bytes()

    path.write_bytes(bytes([key[0] ^ 1]) + key[1:])
    with pytest.raises(BlobDamaged):
        vault.read("up-1")
    for rest in (b"", key[:31], bytes(32)):
        path.write_bytes(rest)
        with pytest.raises(KeyMissing):
            vault.read("up-1")


def test_the_key_bytes_are_overwritten_in_place_before_the_name_goes(vault: Vault, tmp_path: Path) -> None:
    vault.put("up-1", PLAIN)
    os.link(tmp_path / "keys" / "up-1.key", tmp_path / "the same bytes")

    vault.shred("up-1")

    assert (tmp_path / "the same bytes").read_bytes() == bytes(32)


def test_an_unfinished_file_is_no_blob_and_blocks_its_id_until_shredded(vault: Vault, tmp_path: Path) -> None:
    (tmp_path / "blobs" / "up-1.part").write_bytes(b"rest")

    with pytest.raises(BlobMissing):
        vault.stat("up-1")
    with pytest.raises(BlobExists):
        vault.put("up-1", PLAIN)
    assert list(vault.ids()) == ["up-1"]
    vault.shred("up-1")
    assert vault.put("up-1", PLAIN).size == len(PLAIN)


def test_a_reader_that_had_begun_finishes_and_no_new_one_begins(vault: Vault) -> None:
    vault.put("up-1", PLAIN)
    begun = vault.stream("up-1")
    first = next(begun)

    vault.shred("up-1")

    assert first + b"".join(begun) == PLAIN
    with pytest.raises(BlobMissing):
        vault.stream("up-1")
