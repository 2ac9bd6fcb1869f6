"""Blobs in a directory: one file a blob, its records one after another, the trailer last."""

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from service.blobs.durable import create_private, names_with, private_directory, room_for, sync_directory, write_all
from service.blobs.keys import KeyDirectory
from service.blobs.port import RECORD, TRAILER, BlobExists, BlobMissing, BlobStore, End, Octets
from service.blobs.vault import Vault


def directory_vault(blobs: Path, keys: Path) -> Vault:
    """Open the vault whose ciphertext is in directory `blobs` and whose keys are in directory `keys`; both are created if need be.

    Raises:
        KeysExposed: others than the owner may enter `keys`.
    """
    return Vault(DirectoryStore(blobs), KeyDirectory(keys))


class DirectoryStore(BlobStore):
    """A `BlobStore` of files: `<id>.blob` whole, `<id>.part` while it is being written."""

    def __init__(self, root: Path) -> None:
        private_directory(root)
        self._root = root

    def write(self, blob_id: str, records: Iterable[Octets], *, lasting: bool = True) -> None:
        """Write the records beside their final name, and move them there once they are durable."""
        part, blob = self._part(blob_id), self._blob(blob_id)
        if blob.exists():
            raise BlobExists(blob_id)
        try:
            with room_for(blob_id):
                file = create_private(part)
        except FileExistsError:
            raise BlobExists(blob_id) from None
        with ExitStack() as undo:
            undo.callback(self.remove, blob_id)
            try:
                for record in records:  # Outside `room_for`: what the source raises is not about this disk.
                    with room_for(blob_id):
                        write_all(file, record)
                with room_for(blob_id):
                    os.fsync(file)
            finally:
                os.close(file)
            with room_for(blob_id):
                part.rename(blob)
                sync_directory(self._root)
            undo.pop_all()

    def end(self, blob_id: str) -> End:
        """Give the last `TRAILER` bytes of the file and its length."""
        file = self._open(blob_id)
        try:
            length = os.fstat(file).st_size
            return End(os.pread(file, TRAILER, max(0, length - TRAILER)), length)
        finally:
            os.close(file)

    def records(self, blob_id: str, start: int, stop: int) -> Iterator[Octets]:
        """Yield records from one buffer that is filled again for each."""
        file = self._open(blob_id)
        try:
            chunks_end = os.fstat(file).st_size - TRAILER
            buffer = memoryview(bytearray(RECORD))
            for index in range(start, stop):
                length = min(RECORD, chunks_end - index * RECORD)
                if length <= 0:
                    return
                yield buffer[: os.preadv(file, [buffer[:length]], index * RECORD)]
        finally:
            os.close(file)

    def remove(self, blob_id: str) -> None:
        """Unlink the blob and the rest of an interrupted write."""
        self._blob(blob_id).unlink(missing_ok=True)
        self._part(blob_id).unlink(missing_ok=True)
        # Also when nothing was there: the call that unlinked it may have died before its unlink was durable.
        sync_directory(self._root)

    def ids(self, prefix: str = "") -> Iterator[str]:
        """Yield the ids of whole blobs and of interrupted writes."""
        found = {*names_with(self._root, ".blob"), *names_with(self._root, ".part")}
        return (blob_id for blob_id in found if blob_id.startswith(prefix))

    def _open(self, blob_id: str) -> int:
        try:
            return os.open(self._blob(blob_id), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise BlobMissing(blob_id) from None

    def _blob(self, blob_id: str) -> Path:
        return self._root / f"{blob_id}.blob"

    def _part(self, blob_id: str) -> Path:
        return self._root / f"{blob_id}.part"
