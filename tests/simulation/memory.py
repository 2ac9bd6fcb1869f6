"""A store of blobs and one of keys in memory, each operation a place where the schedule may turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from service.blobs.port import RECORD, TRAILER, BlobExists, BlobMissing, BlobStore, End, KeyMissing, Octets

Point = Callable[[str], None]


class MemoryBlobs(BlobStore):
    """A `BlobStore` that appears all at once or not at all."""

    def __init__(self, point: Point, stored: dict[str, bytes]) -> None:
        self._point, self.stored = point, stored

    def write(self, blob_id: str, records: Iterable[Octets], *, lasting: bool = True) -> None:
        whole = b"".join(bytes(r) for r in records)
        self._point("blob write")
        if blob_id in self.stored:
            raise BlobExists(blob_id)
        self.stored[blob_id] = whole

    def end(self, blob_id: str) -> End:
        whole = self._get(blob_id)
        return End(whole[-TRAILER:], len(whole))

    def records(self, blob_id: str, start: int, stop: int) -> Iterator[Octets]:
        self._point("blob read")
        chunks = self._get(blob_id)[:-TRAILER]
        for index in range(start, stop):
            if record := chunks[index * RECORD : (index + 1) * RECORD]:
                yield record

    def remove(self, blob_id: str) -> None:
        self._point("blob remove")
        self.stored.pop(blob_id, None)

    def ids(self, prefix: str = "") -> Iterator[str]:
        self._point("blob list")
        return iter([b for b in self.stored if b.startswith(prefix)])

    def _get(self, blob_id: str) -> bytes:
        if blob_id not in self.stored:
            raise BlobMissing(blob_id)
        return self.stored[blob_id]


class MemoryKeys:
    """A `KeyStore` whose keys are gone when they are destroyed."""

    def __init__(self, point: Point, kept: dict[str, bytes]) -> None:
        self._point, self.kept = point, kept

    def create(self, blob_ids: Sequence[str]) -> None:
        self._point("key create")
        for blob_id in blob_ids:
            if blob_id in self.kept:
                raise BlobExists(blob_id)
            self.kept[blob_id] = blob_id.encode().ljust(32, b"\1")[-32:]

    def load(self, blob_id: str) -> bytes:
        if blob_id not in self.kept:
            raise KeyMissing(blob_id)
        return self.kept[blob_id]

    def destroy(self, blob_id: str) -> None:
        self._point("key destroy")
        self.kept.pop(blob_id, None)

    def ids(self, prefix: str = "") -> Iterator[str]:
        return iter([b for b in self.kept if b.startswith(prefix)])
