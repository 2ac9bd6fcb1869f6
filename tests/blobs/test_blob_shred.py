"""Shredding ends in nothing: no key, no ciphertext, no name, and never any plaintext on the way."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from service.blobs import BlobExists, BlobMissing, BlobStore, KeyMissing, KeyStore, StillReadable, Vault
from service.blobs.port import CHUNK, End, Octets

MARKER = b"MARKER-of-a-person-9f3c1b"
PLAIN = random.Random(4).randbytes(CHUNK) + MARKER * 1000 + random.Random(5).randbytes(CHUNK)

AtRest = Callable[[], bytes]


def assert_unreadable(vault: Vault, blob_id: str, error: type[Exception]) -> None:
    for use in (vault.stat, vault.read, vault.stream, vault.open):
        with pytest.raises(error):
            use(blob_id)


def test_no_plaintext_is_at_rest_while_a_blob_is_written_stored_or_shredded(vault: Vault, at_rest: AtRest) -> None:
    seen: list[bytes] = []

    def source() -> Iterator[bytes]:
        for i in range(0, len(PLAIN), 300_000):
            yield PLAIN[i : i + 300_000]
            seen.append(at_rest())

    vault.put("up-1", source())
    seen.append(at_rest())
    vault.shred("up-1")

    assert len(seen[-1]) > len(PLAIN)
    assert not any(MARKER in bytes_at_rest for bytes_at_rest in seen)
    assert at_rest() == b""


def test_a_shredded_blob_leaves_neither_key_nor_ciphertext(vault: Vault, at_rest: AtRest) -> None:
    vault.put("up-1", PLAIN)
    vault.put("up-2", PLAIN)
    key, trailer = vault.keys.load("up-1"), vault.blobs.end("up-1").trailer
    assert key in at_rest()
    assert trailer in at_rest()

    vault.shred("up-1")

    assert_unreadable(vault, "up-1", BlobMissing)
    assert key not in at_rest()
    assert trailer not in at_rest()
    assert b"up-1" not in at_rest()
    assert list(vault.ids()) == ["up-2"]
    assert vault.read("up-2") == PLAIN


def test_shredding_what_is_gone_or_never_was_is_fine(vault: Vault) -> None:
    vault.put("up-1", PLAIN)

    vault.shred("up-1")
    vault.shred("up-1")
    vault.shred("up-none")

    assert list(vault.ids()) == []


def test_a_blob_whose_key_alone_is_destroyed_is_unreadable_and_listed_and_can_be_shredded(vault: Vault, at_rest: AtRest) -> None:
    vault.put("up-1", PLAIN)

    vault.keys.destroy("up-1")

    assert_unreadable(vault, "up-1", KeyMissing)
    assert list(vault.ids()) == ["up-1"]
    vault.shred("up-1")
    assert at_rest() == b""


def test_a_half_shredded_blob_is_not_written_over(vault: Vault) -> None:
    vault.put("up-1", PLAIN)
    vault.keys.destroy("up-1")

    with pytest.raises(BlobExists):
        vault.put("up-1", b"new")

    assert_unreadable(vault, "up-1", KeyMissing)
    vault.shred("up-1")
    assert vault.put("up-1", b"new").size == 3


def test_a_key_without_a_blob_is_listed_and_can_be_shredded(vault: Vault, at_rest: AtRest) -> None:
    vault.keys.create(["up-1"])

    assert_unreadable(vault, "up-1", BlobMissing)
    assert list(vault.ids()) == ["up-1"]
    vault.shred("up-1")
    assert at_rest() == b""


def test_a_blob_shredded_while_it_is_put_does_not_count_as_put(vault: Vault, at_rest: AtRest) -> None:
    def source() -> Iterator[bytes]:
        yield PLAIN
        vault.keys.destroy("up-1")

    with pytest.raises(KeyMissing):
        vault.put("up-1", source())

    assert at_rest() == b""


def test_of_several_keys_all_are_made_or_none(vault: Vault) -> None:
    vault.keys.create(["up-2"])
    key = vault.keys.load("up-2")

    with pytest.raises(BlobExists):
        vault.keys.create(["up-1", "up-2", "up-3"])

    assert list(vault.ids()) == ["up-2"]
    assert vault.keys.load("up-2") == key


@dataclass(frozen=True)
class KeptBlobs:
    """A store that says it removed and did not: what a versioned bucket does."""

    true: BlobStore

    def write(self, blob_id: str, records: Iterable[Octets], *, lasting: bool = True) -> None:
        self.true.write(blob_id, records, lasting=lasting)

    def end(self, blob_id: str) -> End:
        return self.true.end(blob_id)

    def records(self, blob_id: str, start: int, stop: int) -> Iterator[Octets]:
        return self.true.records(blob_id, start, stop)

    def remove(self, blob_id: str) -> None:
        pass

    def ids(self, prefix: str = "") -> Iterator[str]:
        return self.true.ids(prefix)


@dataclass(frozen=True)
class KeptKeys:
    """A key store that says it destroyed and did not."""

    true: KeyStore

    def create(self, blob_ids: Sequence[str]) -> None:
        self.true.create(blob_ids)

    def load(self, blob_id: str) -> bytes:
        return self.true.load(blob_id)

    def destroy(self, blob_id: str) -> None:
        pass

    def ids(self, prefix: str = "") -> Iterator[str]:
        return self.true.ids(prefix)


def test_shredding_fails_aloud_when_the_key_survives(vault: Vault) -> None:
    vault.put("up-1", PLAIN)

    with pytest.raises(StillReadable, match="key"):
        Vault(vault.blobs, KeptKeys(vault.keys)).shred("up-1")


def test_shredding_fails_aloud_when_the_ciphertext_survives(vault: Vault) -> None:
    vault.put("up-1", PLAIN)

    with pytest.raises(StillReadable, match="ciphertext"):
        Vault(KeptBlobs(vault.blobs), vault.keys).shred("up-1")
    assert_unreadable(vault, "up-1", KeyMissing)
