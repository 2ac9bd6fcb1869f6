"""The vault: put, read, shred. Ciphertext in one place, keys in another, plaintext in neither."""

import hashlib
import hmac
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, cast

from service.blobs.cipher import Cipher, cut
from service.blobs.port import (
    CHUNK,
    SMALL,
    BlobDamaged,
    BlobMissing,
    BlobStore,
    KeyMissing,
    KeyStore,
    Octets,
    Sealed,
    StillReadable,
    check_id,
)

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

@dataclass(frozen=True)
class Vault:
    """One store of ciphertext and the keys to it. Holds no state: distinct blobs may be used from distinct threads and processes."""

    blobs: BlobStore
    keys: KeyStore

    def put(self, blob_id: str, source: Octets | BinaryIO | Iterable[Octets], *, lasting: bool = True, keyed: bool = False) -> Sealed:
        """Seal `source` under a random key of its own, in memory of a few chunks whatever its size.

        The key is durable before the blob can be seen, the blob is durable when this returns, and if it raises, or is killed,
        nothing can be read (a killed put leaves rests that `ids` lists and `shred` removes). Whatever `source` raises passes through.

        Args:
            source: the plaintext: bytes, a file open for reading in binary mode, or pieces of any length.
            lasting: False where a commit to the service's own database follows, without which the blob is worth nothing: the blob may
                become durable with that commit only. Its key is durable before either.
            keyed: the id was given its key ahead, by `keys.create`, and is used this once.

        Returns:
            What was stored; as read back from the sealed trailer, unless it was a few bytes in memory.

        Raises:
            BlobExists: the id is taken; a blob is written once, since its key and its bytes cannot be replaced in one step.
            StoreFull: there is no room.
            KeyMissing: the key made ahead is there no more.
        """
        check_id(blob_id)
        with ExitStack() as undo:
            if not keyed:
                self.keys.create([blob_id])
            undo.callback(self.keys.destroy, blob_id)
            cipher = Cipher(blob_id, self.keys.load(blob_id))
            small = isinstance(source, Octets) and memoryview(source).nbytes <= SMALL
            # Buffers of a chunk would cost more than all else that is done with a few bytes.
            records = cipher.seal_chunks(_pieces(source or ()), largest=SMALL) if small else cipher.seal_chunks(cut(_pieces(source)))
            self.blobs.write(blob_id, [bytes(r) for r in records] if small else records, lasting=lasting)
            undo.callback(self.blobs.remove, blob_id)
            # While a stream comes in, much may happen to the blob; bytes at hand were stored in one step.
            sealed = _facts_of(blob_id, source) if isinstance(source, Octets) and small else self.stat(blob_id)
            undo.pop_all()
        return sealed

    def stat(self, blob_id: str) -> Sealed:
        """Tell what a blob holds, from its trailer alone.

        Raises:
            BlobMissing, KeyMissing, BlobDamaged: it cannot be read.
        """
        return self._unlock(blob_id)[0]

    def stream(self, blob_id: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the plaintext bytes `start` to `stop - 1`, as a slice would, touching only the chunks that hold them.

        Every chunk is authenticated before it is yielded; a stream of the whole blob also checks the digest, before its last chunk.
        The blob is looked up and its length checked by the call itself, so that a caller knows before it answers.

        Raises:
            BlobMissing, KeyMissing, BlobDamaged: it cannot be read.
            ValueError: a negative bound.
        """
        sealed, cipher = self._unlock(blob_id)
        stop = sealed.size if stop is None else min(stop, sealed.size)
        if start < 0 or stop < 0:
            raise ValueError("the bounds of a range are not negative")
        if start == 0 and stop == sealed.size:
            return self._whole(sealed, cipher)
        return self._part(sealed, cipher, start, stop)

    def read(self, blob_id: str) -> bytes:
        """Give the whole plaintext, its digest checked.

        Raises:
            BlobMissing, KeyMissing, BlobDamaged: it cannot be read.
        """
        whole = io.BytesIO()  # Grows in place and gives its bytes up without a copy; joining would hold the plaintext twice.
        for piece in self.stream(blob_id):
            whole.write(piece)
        return whole.getvalue()

    def read_each(self, blob_ids: Sequence[str]) -> Iterator[bytes]:
        """Yield the plaintext of each blob, in order: of many small ones at a fraction of what reading one by one costs.

        Raises:
            BlobMissing, KeyMissing, BlobDamaged: one cannot be read.
        """
        for blob_id, (end, first) in zip(blob_ids, self.blobs.heads(blob_ids), strict=True):
            cipher = Cipher(blob_id, self.keys.load(blob_id))
            sealed = cipher.open_trailer(end)
            if sealed.chunks == 1 and first is not None:
                plain = cipher.open_chunk(0, first)
                _require_digest(sealed, hashlib.sha256(plain).hexdigest())
                yield plain
            else:
                yield self.read(blob_id)

    def open(self, blob_id: str) -> "Reader":
        """Give a readable, seekable file over the plaintext, for formats that jump about (Parquet, safetensors).

        Every chunk is authenticated; the digest of the whole, which such a reader may never see, is not computed.

        Raises:
            BlobMissing, KeyMissing, BlobDamaged: it cannot be read.
        """
        sealed, cipher = self._unlock(blob_id)
        return Reader(self.blobs, sealed, cipher)

    def shred(self, blob_id: str) -> None:
        """Destroy the key, then remove the ciphertext, then try to get at both and require failure.

        May be called again at any point: what is gone already is fine. A reader that had begun keeps what it had loaded.

        Raises:
            StillReadable: the key or the ciphertext still answers.
        """
        check_id(blob_id)
        self.keys.destroy(blob_id)
        self.blobs.remove(blob_id)
        self._require_gone(blob_id)

    def ids(self, prefix: str = "") -> Iterator[str]:
        """Yield, in order, every id of which anything is left: whole blobs, interrupted puts, keys without a blob, half-shredded."""
        yield from sorted({*self.blobs.ids(prefix), *self.keys.ids(prefix)})

    def _unlock(self, blob_id: str) -> tuple[Sealed, Cipher]:
        check_id(blob_id)
        end = self.blobs.end(blob_id)  # First, so that an id with neither bytes nor key is missing, not shredded.
        cipher = Cipher(blob_id, self.keys.load(blob_id))
        return cipher.open_trailer(end), cipher

    def _whole(self, sealed: Sealed, cipher: Cipher) -> Iterator[bytes]:
        digest = hashlib.sha256()
        for index, chunk in enumerate(_chunks(self.blobs, sealed, cipher, 0, sealed.chunks)):
            digest.update(chunk)
            if index == sealed.chunks - 1:
                _require_digest(sealed, digest.hexdigest())
            yield chunk
        if not sealed.chunks:
            _require_digest(sealed, digest.hexdigest())

    def _part(self, sealed: Sealed, cipher: Cipher, start: int, stop: int) -> Iterator[bytes]:
        if start >= stop:
            return
        first, last = start // CHUNK, (stop - 1) // CHUNK
        for index, chunk in enumerate(_chunks(self.blobs, sealed, cipher, first, last + 1), first):
            begins, ends = max(start - index * CHUNK, 0), min(stop - index * CHUNK, CHUNK)
            yield chunk[begins:ends]  # A slice of everything is the chunk itself: only the two borders are copied.

    def _require_gone(self, blob_id: str) -> None:
        try:
            self.keys.load(blob_id)
        except KeyMissing:
            pass
        else:
            raise StillReadable(blob_id, "its key is still there after shredding")
        try:
            self.blobs.end(blob_id)
        except BlobMissing:
            pass
        else:
            raise StillReadable(blob_id, "its ciphertext is still there after shredding")


class Reader(io.RawIOBase):
    """A file over one blob's plaintext; holds one decrypted chunk. Not for several threads at once."""

    def __init__(self, blobs: BlobStore, sealed: Sealed, cipher: Cipher) -> None:
        super().__init__()
        self.sealed = sealed
        self._blobs = blobs
        self._cipher = cipher
        self._position = 0
        self._index = -1
        self._chunk = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.sealed.size}[whence]
        if origin + offset < 0:
            raise ValueError("the position in a blob is not negative")
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fill the whole buffer unless the blob ends.

        Raises:
            BlobMissing, BlobDamaged: a chunk cannot be read.
            ValueError: the reader is closed.
        """
        if self.closed:
            raise ValueError("the reader is closed")
        wanted = memoryview(buffer).cast("B")
        stop = min(self._position + len(wanted), self.sealed.size)
        done = 0
        while self._position < stop:
            index, begins = divmod(self._position, CHUNK)
            self._load(index)
            piece = memoryview(self._chunk)[begins : begins + stop - self._position]
            wanted[done : done + len(piece)] = piece
            done += len(piece)
            self._position += len(piece)
        return done

    def readall(self) -> bytes:
        """Give the rest in one piece; the inherited loop would ask for it 8 KiB at a time."""
        return self.read(max(0, self.sealed.size - self._position)) or b""

    def _load(self, index: int) -> None:
        if index != self._index:
            (self._chunk,) = _chunks(self._blobs, self.sealed, self._cipher, index, index + 1)
            self._index = index


def _facts_of(blob_id: str, plain: Octets) -> Sealed:
    size = memoryview(plain).nbytes
    return Sealed(blob_id, size, hashlib.sha256(plain).hexdigest(), -(-size // CHUNK))


def _pieces(source: Octets | BinaryIO | Iterable[Octets]) -> Iterable[Octets]:
    if isinstance(source, Octets):
        return [source]
    if hasattr(source, "read"):  # Before iterating: a file would be iterated by lines.
        return iter(partial(cast("BinaryIO", source).read, CHUNK), b"")
    return source


def _chunks(blobs: BlobStore, sealed: Sealed, cipher: Cipher, start: int, stop: int) -> Iterator[bytes]:
    """Yield decrypted chunks `start` to `stop - 1`, all of them or an error."""
    index = start
    for record in blobs.records(sealed.blob_id, start, stop):
        yield cipher.open_chunk(index, record)
        index += 1
    if index != stop:
        raise BlobDamaged(sealed.blob_id, f"chunk {index} is not there")


def _require_digest(sealed: Sealed, found: str) -> None:
    if not hmac.compare_digest(sealed.sha256, found):
        raise BlobDamaged(sealed.blob_id, "its content does not have the digest it was sealed with")
