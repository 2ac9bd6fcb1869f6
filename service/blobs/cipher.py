"""How a blob is sealed: chunks encrypted one by one under its own key, closed by a trailer that says what belongs to it.

    record i   AES-256-GCM(key, nonce = kind 0, i;  data = label, kind 0, i, blob id;  chunk i)
    trailer    AES-256-GCM(key, nonce = kind 1, 0;  data = label, kind 1, 0, blob id;  count u64, size u64, sha256)

The digest is unknown until the last byte has streamed by, so it cannot be in every chunk's associated data. Index and id there and
count, size and digest in the trailer detect the same: a chunk moved within the blob or between blobs does not authenticate, and a
blob cut, lengthened or without its trailer disagrees with its count and size. A counter is a safe nonce because the key is random,
belongs to one blob, and a blob is written once.

Source: NIST SP 800-38D, section 8.2.1 (deterministic nonces).
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from service.blobs.port import CHUNK, TAG, TRAILER, BlobDamaged, End, Octets, Sealed

_LABEL: Final = b"expunge-blob-1"
_CHUNK_KIND: Final = 0
_TRAILER_KIND: Final = 1
_NONCE = struct.Struct(">IQ")
_FACTS = struct.Struct(">QQ32s")


class Cipher:
    """Seals and opens the records of one blob with its key."""

    def __init__(self, blob_id: str, key: bytes) -> None:
        self._blob_id = blob_id
        self._aead = AESGCM(key)

    def seal_chunks(self, chunks: Iterable[Octets], *, largest: int = CHUNK) -> Iterator[Octets]:
        """Encrypt all chunks, none over `largest` bytes, and yield every record, the trailer last; a record is valid until the next."""
        record = memoryview(bytearray(largest + TAG))  # One buffer for all: fresh memory for each costs a third of the speed.
        digest = hashlib.sha256()
        count = size = 0
        for chunk in chunks:
            digest.update(chunk)
            bound = self._bound(_CHUNK_KIND, count)
            length = self._aead.encrypt_into(_NONCE.pack(_CHUNK_KIND, count), chunk, bound, record[: len(chunk) + TAG])
            yield record[:length]
            count += 1
            size += len(chunk)
        facts = _FACTS.pack(count, size, digest.digest())
        yield self._aead.encrypt(_NONCE.pack(_TRAILER_KIND, 0), facts, self._bound(_TRAILER_KIND, 0))

    def open_chunk(self, index: int, record: Octets) -> bytes:
        """Decrypt chunk `index`.

        Raises:
            BlobDamaged: it is not the record that was sealed as this chunk of this blob.
        """
        return self._open(_CHUNK_KIND, index, record, f"chunk {index} is not what was stored")

    def open_trailer(self, end: End) -> Sealed:
        """Decrypt the trailer and hold the stored length against it.

        Raises:
            BlobDamaged: the trailer does not authenticate, or records are missing or too many.
        """
        facts = self._open(_TRAILER_KIND, 0, end.trailer, "its end is not what was stored")
        count, size, sha256 = _FACTS.unpack(facts)
        if end.length != size + count * TAG + TRAILER:
            raise BlobDamaged(self._blob_id, "it is longer or shorter than what was stored")
        return Sealed(self._blob_id, size, sha256.hex(), count)

    def _open(self, kind: int, index: int, record: Octets, what: str) -> bytes:
        try:
            return self._aead.decrypt(_NONCE.pack(kind, index), record, self._bound(kind, index))
        except InvalidTag:
            raise BlobDamaged(self._blob_id, what) from None

    def _bound(self, kind: int, index: int) -> bytes:
        return _LABEL + _NONCE.pack(kind, index) + self._blob_id.encode("ascii")


def cut(pieces: Iterable[Octets]) -> Iterator[memoryview]:
    """Cut pieces of any length into chunks of `CHUNK` bytes, the last shorter, none empty; a chunk is valid until the next."""
    buffer = memoryview(bytearray(CHUNK))
    filled = 0
    for piece in pieces:
        rest = memoryview(piece).cast("B")
        while rest:
            if not filled and len(rest) >= CHUNK:  # Whole chunks pass without being copied.
                yield rest[:CHUNK]
                rest = rest[CHUNK:]
                continue
            taken = min(CHUNK - filled, len(rest))
            buffer[filled : filled + taken] = rest[:taken]
            filled, rest = filled + taken, rest[taken:]
            if filled == CHUNK:
                yield buffer
                filled = 0
    if filled:
        yield buffer[:filled]
