"""What a place for blobs must offer, and the ways in which it may fail.

A blob is kept as *records*: chunk records in order, then one trailer record. All of it is ciphertext before it comes here, so a
store needs no trust beyond not losing bytes. A store keeps no keys, a key store keeps no bytes.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

CHUNK: Final = 1 << 20
"""Plaintext bytes of every chunk but the last: 1 MiB is what PostgreSQL moves fastest as one row."""

SMALL: Final = 1 << 16
"""Plaintext bytes that are stored in one step, and read with others, whatever the store."""

TAG: Final = 16
"""Bytes that AES-GCM adds to each record."""

RECORD: Final = CHUNK + TAG
"""Bytes of every chunk record but the last, which may be shorter; none is empty."""

TRAILER: Final = 48 + TAG
"""Bytes of the trailer record: count, size, sha256, and the tag."""

Octets = bytes | bytearray | memoryview

# A leading dot would allow `.` and `..`; `\Z` and not `$`, which lets a final newline through.
_BLOB_ID = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,120}\Z")


class BlobError(Exception):
    """Something about one blob; carries its id, never its content."""

    def __init__(self, blob_id: str, what: str) -> None:
        super().__init__(f"blob {blob_id}: {what}")
        self.blob_id = blob_id


class BlobMissing(BlobError):
    """No whole blob is stored under this id: never written, written in part, or shredded to the end."""

    def __init__(self, blob_id: str) -> None:
        super().__init__(blob_id, "not stored")


class KeyMissing(BlobError):
    """The ciphertext is there and its key is not: a shred that stopped half-way, or a lost key directory."""

    def __init__(self, blob_id: str) -> None:
        super().__init__(blob_id, "its key is gone, nobody can read it again")


class BlobDamaged(BlobError):
    """The stored bytes are not those that were written for this id, or not with this key."""


class BlobExists(BlobError):
    """A blob is written once: the id is taken, by a whole blob or by the rest of an interrupted one (shred it first)."""

    def __init__(self, blob_id: str) -> None:
        super().__init__(blob_id, "the id is taken; a blob is written once")


class StoreFull(BlobError):
    """There is no room (disk, quota or file limit); what was begun has been removed."""

    def __init__(self, blob_id: str) -> None:
        super().__init__(blob_id, "no room left to store it")


class StoreUnavailable(BlobError):
    """The store does not answer, or fell while it wrote: nothing is known to be kept. Trying again later may help."""

    def __init__(self, blob_id: str) -> None:
        super().__init__(blob_id, "its store does not answer")


class StillReadable(BlobError):
    """Shredding ended and the key or the ciphertext still answers: the erasure must not be reported as done."""


class BadBlobId(ValueError):
    """An id outside `[A-Za-z0-9._-]{1,120}` or with a leading dot; the message does not repeat it."""

    def __init__(self) -> None:
        super().__init__("a blob id has 1 to 120 characters of A-Z a-z 0-9 . _ - and does not begin with a dot")


def check_id(blob_id: str) -> None:
    """Refuse an id that could name anything but a blob.

    Raises:
        BadBlobId: it could.
    """
    if not _BLOB_ID.match(blob_id):
        raise BadBlobId


@dataclass(frozen=True)
class Sealed:
    """What one whole blob holds."""

    blob_id: str

    size: int
    """Bytes of plaintext."""

    sha256: str
    """Hex digest of the plaintext."""

    chunks: int
    """Chunk records; 0 for an empty blob."""


@dataclass(frozen=True)
class End:
    """How a stored blob ends: enough to know what belongs to it."""

    trailer: bytes
    """The last record as stored; its true length is `TRAILER`, and nothing is promised of a damaged one."""

    length: int
    """Bytes of all records together, the trailer among them."""


class BlobStore(Protocol):
    """Keeps records of ciphertext. All ids are checked by the caller; distinct ids may be used from distinct threads.

    A store that lies across a network raises `StoreUnavailable` from any method while it cannot be reached.
    """

    def write(self, blob_id: str, records: Iterable[Octets], *, lasting: bool = True) -> None:
        """Store all records, durably and all at once: until this returns, and if it raises, the blob is not there.

        A record is valid only until the next is asked for. Whatever `records` raises passes through.

        Args:
            records: a list of those of a small blob, which may be stored in one step.
            lasting: False where a commit to the service's own database follows, without which the blob is worth nothing: a store in
                that database may leave it to that commit to make the blob durable.

        Raises:
            BlobExists: the id is taken.
            StoreFull: no room; nothing was left behind.
        """
        ...

    def end(self, blob_id: str) -> End:
        """Give the last record and the length of all.

        Raises:
            BlobMissing: no whole blob has this id.
        """
        ...

    def records(self, blob_id: str, start: int, stop: int) -> Iterator[Octets]:
        """Yield chunk records `start` to `stop - 1`, as far as they exist; one is valid only until the next is asked for.

        Raises:
            BlobMissing: no whole blob has this id.
        """
        ...

    def heads(self, blob_ids: Sequence[str]) -> Iterator[tuple[End, Octets | None]]:
        """Give of each blob, in order, its end and, at least if it is small, its first chunk record; None if it has none.

        A store across a network asks for several at once.

        Raises:
            BlobMissing: no whole blob has one of these ids.
        """
        for blob_id in blob_ids:
            yield self.end(blob_id), next(self.records(blob_id, 0, 1), None)

    def remove(self, blob_id: str) -> None:
        """Remove the blob and any rest of an interrupted write, durably; nothing to remove is fine."""
        ...

    def ids(self, prefix: str = "") -> Iterator[str]:
        """Yield the ids under which anything is stored, whole or in part."""
        ...


class KeyStore(Protocol):
    """Keeps one 256-bit key a blob, outside the database and outside its backups, so that destroying it is final."""

    def create(self, blob_ids: Sequence[str]) -> None:
        """Make a new random key for each and keep it; all are durable when this returns, and none is kept if it raises.

        Raises:
            BlobExists: an id has a key.
            StoreFull: no room.
        """
        ...

    def load(self, blob_id: str) -> bytes:
        """Give the key.

        Raises:
            KeyMissing: there is none, or only the rest of one.
        """
        ...

    def destroy(self, blob_id: str) -> None:
        """Destroy the key, durably; nothing to destroy is fine."""
        ...

    def ids(self, prefix: str = "") -> Iterator[str]:
        """Yield the ids that have a key, or the rest of one."""
        ...
