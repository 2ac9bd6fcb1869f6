"""Data keys: one random key a blob, a file each, in a directory that belongs to no database and no backup of one."""

import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from service.blobs.durable import create_private, names_with, private_directory, room_for, sync_directory, sync_files, write_all
from service.blobs.port import BlobExists, KeyMissing

_KEY: Final = 32
_DESTROYED: Final = bytes(_KEY)


class KeysExposed(Exception):
    """The directory of keys is open to others than its owner."""


class KeyDirectory:
    """Keeps each key in a file of 32 raw bytes, mode 0600, in a directory of mode 0700.

    Destroying overwrites the file before unlinking it. A journal, a copy-on-write file system, a snapshot or a worn flash cell may
    keep the old bytes all the same: where that matters, the directory belongs on a disk that is encrypted and not snapshotted.
    """

    def __init__(self, root: Path) -> None:
        """Use `root`, creating it if it is not there.

        Raises:
            KeysExposed: it is there and others may enter it.
        """
        private_directory(root)
        mode = stat.S_IMODE(root.stat().st_mode)
        if mode & 0o077:
            raise KeysExposed(f"the key directory has mode {mode:04o}; give it 0700")
        self._root = root

    def create(self, blob_ids: Sequence[str]) -> None:
        """Make new random keys: all are written before the first is waited for, and their names are made durable together."""
        with ExitStack() as undo, ExitStack() as opened, room_for("".join(blob_ids[:1])):
            files = []
            for blob_id in blob_ids:
                path = self._path(blob_id)
                try:
                    file = create_private(path)
                except FileExistsError:
                    raise BlobExists(blob_id) from None
                undo.callback(_unlink, path)
                opened.callback(os.close, file)
                write_all(file, secrets.token_bytes(_KEY))
                files.append(file)
            sync_files(files)
            sync_directory(self._root)
            undo.pop_all()

    def load(self, blob_id: str) -> bytes:
        """Give the key; a torn or overwritten one counts as gone."""
        try:
            file = os.open(self._path(blob_id), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise KeyMissing(blob_id) from None
        try:
            key = os.read(file, _KEY + 1)  # so few bytes come at once
        finally:
            os.close(file)
        if len(key) != _KEY or key == _DESTROYED:
            raise KeyMissing(blob_id)
        return key

    def destroy(self, blob_id: str) -> None:
        """Overwrite the key, unlink it, and make both durable; a second call finishes what a crash left."""
        path = self._path(blob_id)
        try:
            file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            pass
        else:
            try:
                write_all(file, _DESTROYED)
                os.fsync(file)
            finally:  # A disk that refuses the overwrite must not keep the name as well.
                os.close(file)
                _unlink(path)
        # Also when the file was gone: the call that unlinked it may have died before its unlink was durable.
        sync_directory(self._root)

    def ids(self, prefix: str = "") -> Iterator[str]:
        """Yield the ids that have a key, or the rest of one."""
        return (blob_id for blob_id in names_with(self._root, ".key") if blob_id.startswith(prefix))

    def _path(self, blob_id: str) -> str:
        return f"{self._root}/{blob_id}.key"  # a text: making a Path takes as long as opening the file


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
