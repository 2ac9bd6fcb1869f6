"""Blobs in a bucket: one object for a small blob; for a larger one objects of eight records each, and a last one that makes it appear.

    <id>/whole    records | trailer | 0 u32                       a blob of at most eight chunks, there or not in one request
    <id>/00000    eight records                                   and so on
    <id>/end      the records that are left | trailer | how many objects came before, u32

Not S3's own multipart upload: an interrupted one leaves parts that no listing of objects shows, and cannot be told to spare an object
that exists. The count is not sealed; a false one makes the length disagree with the trailer, which is. The bucket should keep no
versions: the keys are what erases, but what was removed should not stay either. Buckets that do not list by name ("directory
buckets") are not supported.
"""

import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError
from obstore.store import S3Store as Bucket

from service.blobs.port import RECORD, TRAILER, BlobExists, BlobMissing, BlobStore, End, Octets, StoreUnavailable

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

_GROUP: Final = 8
"""Records an object: fewer objects than records, and still little to hold in memory."""

_COUNT: Final = struct.Struct(">I")
_WHOLE: Final = "whole"
_END: Final = "end"


class BadBucket(ValueError):
    """An address of a bucket that is not `s3://BUCKET[/PREFIX][?endpoint=URL&region=NAME]`."""


class S3Store(BlobStore):
    """A `BlobStore` of objects in one bucket. Open one in each process, after any fork; threads may share it."""

    def __init__(self, address: str) -> None:
        """Use the bucket at `address`; access keys come from the environment (`AWS_ACCESS_KEY_ID` ...) or the machine's role.

        Raises:
            BadBucket: the address says something else.
        """
        self._bucket = _bucket(address)

    def write(self, blob_id: str, records: Iterable[Octets], *, lasting: bool = True) -> None:
        """Store full groups of records as they come, and the last object, which makes the blob appear, at the end."""
        with _answering(blob_id):
            if self._names(blob_id):
                raise BlobExists(blob_id)
        begun = _Begun(self._bucket, blob_id)
        try:
            for record in records:
                begun.add(record)
            begun.finish()
        except BlobExists:
            if begun.objects:  # Else nothing of what is there is ours.
                self.remove(blob_id)
            raise
        except BaseException:
            self.remove(blob_id)
            raise

    def end(self, blob_id: str) -> End:
        """Give the trailer and the length of all records, from the last object alone."""
        with _answering(blob_id):
            for name in (_WHOLE, _END):
                found = self._read(blob_id, name, None, TRAILER + _COUNT.size)
                if found is not None:
                    tail, size = found
                    before = _COUNT.unpack(tail[-_COUNT.size :])[0] if len(tail) >= _COUNT.size else 0
                    return End(bytes(tail[: -_COUNT.size]), before * _GROUP * RECORD + size - _COUNT.size)
        raise BlobMissing(blob_id)

    def records(self, blob_id: str, start: int, stop: int) -> Iterator[Octets]:
        """Yield records, read a group at a time."""
        whole = True
        while start < stop:
            with _answering(blob_id):
                group = self._whole(blob_id, start, stop) if whole else None
                if group is None:
                    whole = False
                    group = self._group(blob_id, start, stop)
            if not group:
                return
            for begins in range(0, len(group), RECORD):
                yield group[begins : begins + RECORD]
                start += 1

    def remove(self, blob_id: str) -> None:
        """Delete every object of the blob, those first that make it one."""
        with _answering(blob_id):
            obstore.delete(self._bucket, [f"{blob_id}/{_WHOLE}", f"{blob_id}/{_END}"])
            if rest := self._names(blob_id):
                obstore.delete(self._bucket, rest)

    def ids(self, prefix: str = "") -> Iterator[str]:
        """Yield the ids under which there is any object."""
        last = ""
        with _answering("*"):
            pages = obstore.list(self._bucket, offset=prefix or None, chunk_size=1000)
            for path in (entry["path"] for page in pages for entry in page):
                blob_id = path.partition("/")[0]
                if not blob_id.startswith(prefix):
                    return  # Names come in the order of their bytes: those with the prefix stand together, and first.
                if blob_id != last:
                    last = blob_id
                    yield blob_id

    def _whole(self, blob_id: str, start: int, stop: int) -> memoryview | None:
        stop = min(stop, start + _GROUP)
        return self._last_object(blob_id, _WHOLE, start * RECORD, (stop - start) * RECORD)

    def _group(self, blob_id: str, start: int, stop: int) -> memoryview | None:
        """The records from `start` to the end of its group, at most to `stop`, wherever the group is."""
        number, first = divmod(start, _GROUP)
        length = (min(stop, (number + 1) * _GROUP) - start) * RECORD
        found = self._read(blob_id, f"{number:05}", first * RECORD, length)
        if found is not None:
            content, size = found
            return content if size == _GROUP * RECORD else memoryview(b"")  # Cut or lengthened: as good as not there.
        group = self._last_object(blob_id, _END, first * RECORD, length)
        if group is None:
            raise BlobMissing(blob_id)
        return group

    def _last_object(self, blob_id: str, name: str, begins: int, length: int) -> memoryview | None:
        found = self._read(blob_id, name, begins, length)
        if found is None:
            return None
        content, size = found
        return content[: max(0, size - TRAILER - _COUNT.size - begins)]

    def _read(self, blob_id: str, name: str, begins: int | None, length: int) -> tuple[memoryview, int] | None:
        """Give `length` bytes of an object, or as many as it has, and its size; without `begins`, its last ones. None: no object."""
        path = f"{blob_id}/{name}"
        try:
            if begins is None:
                found = obstore.get(self._bucket, path, options={"range": {"suffix": length}})
            else:
                found = obstore.get(self._bucket, path, options={"range": (begins, begins + length)})
            return memoryview(found.bytes()), found.meta["size"]
        except FileNotFoundError:
            return None
        except GenericError:
            # A range of which the object has nothing is an error as well, and not the store's.
            size = obstore.head(self._bucket, path)["size"]
            if size <= (begins or 0):
                return memoryview(b""), size
            raise

    def _names(self, blob_id: str) -> list[str]:
        return [entry["path"] for page in obstore.list(self._bucket, blob_id, chunk_size=1000) for entry in page]


class _Begun:
    """A blob being written: the records that do not yet fill an object."""

    def __init__(self, bucket: Bucket, blob_id: str) -> None:
        self._bucket = bucket
        self._blob_id = blob_id
        self._held: list[bytes] = []
        self.objects = 0

    def add(self, record: Octets) -> None:
        """Keep a record. A group goes out once two more follow: the last two, a chunk that may be short and the trailer, stay together."""
        self._held.append(bytes(record))
        if len(self._held) == _GROUP + 2:
            self._put(f"{self.objects:05}", _GROUP)

    def finish(self) -> None:
        """Put the last object."""
        self._held.append(_COUNT.pack(self.objects))
        self._put(_END if self.objects else _WHOLE, len(self._held))

    def _put(self, name: str, records: int) -> None:
        content = b"".join(self._held[:records])
        del self._held[:records]
        with _answering(self._blob_id):
            try:
                obstore.put(self._bucket, f"{self._blob_id}/{name}", content, mode="create", use_multipart=False)
            except AlreadyExistsError:
                raise BlobExists(self._blob_id) from None
        self.objects += 1


@contextmanager
def _answering(blob_id: str) -> Iterator[None]:
    """Name what the bucket does not do.

    Raises:
        StoreUnavailable: it cannot be reached, is not there, or refuses.
    """
    try:
        yield
    except (BaseError, FileNotFoundError) as error:
        raise StoreUnavailable(blob_id) from error


def _bucket(address: str) -> Bucket:
    split = urlsplit(address)
    asked = parse_qs(split.query, keep_blank_values=True)
    known = {name: values[0] for name, values in asked.items() if name in ("endpoint", "region") and len(values) == 1 and values[0]}
    if split.scheme != "s3" or not split.netloc or "@" in split.netloc or split.fragment or len(known) != len(asked):
        raise BadBucket("a bucket is given as s3://BUCKET[/PREFIX][?endpoint=URL&region=NAME]; its access keys come from the environment")
    config: S3Config = {}
    if "endpoint" in known:
        config["endpoint"] = known["endpoint"]
    if "region" in known:
        config["region"] = known["region"]
    client: ClientConfig = {"connect_timeout": "5s", "timeout": "60s", "allow_http": known.get("endpoint", "").startswith("http://")}
    retry: RetryConfig = {"max_retries": 4, "retry_timeout": timedelta(seconds=60)}
    return Bucket(split.netloc, prefix=split.path.strip("/") or None, config=config, client_options=client, retry_config=retry)
