"""Blobs in PostgreSQL: a row for each record of 1 MiB, and one for the blob, whose trailer makes it appear.

Each statement is a transaction of its own, so that a slow upload or download holds neither a connection nor old row versions. What
an interrupted write left is listed, blocks its id and is removed like a whole blob. `migrations/versions/0002_blob_chunks.py` has the
columns.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import psycopg
from psycopg import errors
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, TimeoutError

from service.blobs.port import SMALL, TAG, BlobExists, BlobMissing, BlobStore, End, Octets, StoreFull, StoreUnavailable
from service.connections import open_engine

# Nothing need be on disk before the trailer is: its commit, which waits, flushes all that was written before it.
_CLAIM: Final = """
    WITH at_leisure AS (SELECT set_config('synchronous_commit', 'off', true))
    INSERT INTO blobs (blob) SELECT %s FROM at_leisure ON CONFLICT DO NOTHING
"""

# A blob of one chunk is there in one statement.
_WHOLE: Final = """
    WITH claimed AS (INSERT INTO blobs (blob, trailer) VALUES (%s, %b) ON CONFLICT DO NOTHING RETURNING blob)
    INSERT INTO blob_chunks (blob, number, data) SELECT blob, 0, %b FROM claimed
"""

# Commits reach the disk in the order in which they were made: a later one that waits takes this one along.
_WHOLE_AT_LEISURE: Final = """
    WITH at_leisure AS (SELECT set_config('synchronous_commit', 'off', true)),
    claimed AS (INSERT INTO blobs (blob, trailer) SELECT %s, %b FROM at_leisure ON CONFLICT DO NOTHING RETURNING blob)
    INSERT INTO blob_chunks (blob, number, data) SELECT blob, 0, %b FROM claimed
"""

_CHUNK: Final = """
    WITH at_leisure AS (SELECT set_config('synchronous_commit', 'off', true))
    INSERT INTO blob_chunks (blob, number, data) SELECT %s, %s, %b FROM at_leisure
"""

# The count is of rows that are there: a server that fell between two chunks may have lost the earlier one.
_APPEAR: Final = """
    UPDATE blobs SET trailer = %b
    WHERE blob = %s AND trailer IS NULL AND (SELECT count(*) FROM blob_chunks c WHERE c.blob = blobs.blob) = %s
"""

# The length of a value that is stored EXTERNAL is known without reading it.
_END: Final = """
    SELECT trailer, octet_length(trailer) + (SELECT coalesce(sum(octet_length(data)), 0) FROM blob_chunks c WHERE c.blob = b.blob)
    FROM blobs b WHERE blob = %s AND trailer IS NOT NULL
"""

_RECORDS: Final = """
    SELECT c.number, c.data FROM blobs b LEFT JOIN blob_chunks c ON c.blob = b.blob AND c.number >= %s AND c.number < %s
    WHERE b.blob = %s AND b.trailer IS NOT NULL ORDER BY c.number
"""

_AT_ONCE: Final = 4
"""Records a query: what a question costs is shared, and memory stays small."""

_HEADS: Final = """
    SELECT b.trailer, octet_length(trailer) + (SELECT coalesce(sum(octet_length(data)), 0) FROM blob_chunks c WHERE c.blob = b.blob),
           f.data, b.blob
    FROM blobs b LEFT JOIN blob_chunks f ON f.blob = b.blob AND f.number = 0 AND octet_length(f.data) <= %s
    WHERE b.blob = ANY(%s) AND b.trailer IS NOT NULL
"""

_SEVERAL: Final = 64
"""Small blobs a query."""

_REMOVE: Final = "DELETE FROM blobs WHERE blob = %s"

_IDS: Final = "SELECT blob FROM blobs WHERE starts_with(blob, %s)"


class PostgresStore(BlobStore):
    """A `BlobStore` of rows in the tables `blobs` and `blob_chunks`. Open one in each process; threads may share it."""

    def __init__(self, url: str) -> None:
        """Use the database at a SQLAlchemy address; nothing is connected before the first use."""
        self._engine: Engine = open_engine(url, isolation_level="AUTOCOMMIT", pool_size=8, max_overflow=8, pool_timeout=30)

    def write(self, blob_id: str, records: Iterable[Octets], *, lasting: bool = True) -> None:
        """Claim the id, store the chunks, and let the blob appear with its trailer."""
        if isinstance(records, list) and len(records) == 2:
            chunk, trailer = records
            if not self._run(blob_id, _WHOLE if lasting else _WHOLE_AT_LEISURE, (blob_id, trailer, chunk)):
                raise BlobExists(blob_id)
            return
        if not self._run(blob_id, _CLAIM, (blob_id,)):
            raise BlobExists(blob_id)
        with ExitStack() as undo:
            undo.callback(self.remove, blob_id)
            last = b""
            count = -1
            for record in records:
                if count >= 0:
                    self._run(blob_id, _CHUNK, (blob_id, count, last))
                last = bytes(record)  # The last record is the trailer, and which is the last is known one later.
                count += 1
            if not self._run(blob_id, _APPEAR, (last, blob_id, max(0, count))):
                raise StoreUnavailable(blob_id)
            undo.pop_all()

    def end(self, blob_id: str) -> End:
        """Give the trailer and the true length of all rows."""
        with self._cursor(blob_id) as cursor:
            row = cursor.execute(_END, (blob_id,)).fetchone()
        if row is None:
            raise BlobMissing(blob_id)
        return End(row[0], int(row[1]))

    def records(self, blob_id: str, start: int, stop: int) -> Iterator[Octets]:
        """Yield records, a few by each query: a reader that waits for its client holds nothing here."""
        while start < stop:
            with self._cursor(blob_id) as cursor:
                rows = cursor.execute(_RECORDS, (start, min(stop, start + _AT_ONCE), blob_id)).fetchall()
            if not rows:
                raise BlobMissing(blob_id)
            for number, data in rows:
                if number != start:
                    return
                yield data
                start += 1

    def heads(self, blob_ids: Sequence[str]) -> Iterator[tuple[End, Octets | None]]:
        """Ask for several at a time; only of small blobs is a record loaded."""
        for start in range(0, len(blob_ids), _SEVERAL):
            several = list(blob_ids[start : start + _SEVERAL])
            with self._cursor(several[0]) as cursor:
                rows = cursor.execute(_HEADS, (SMALL + TAG, several)).fetchall()
            found = {blob: (End(trailer, int(length)), first) for trailer, length, first, blob in rows}
            for blob_id in several:
                if blob_id not in found:
                    raise BlobMissing(blob_id)
                yield found[blob_id]

    def remove(self, blob_id: str) -> None:
        """Delete the blob and its chunks, or the rest of an interrupted write; a writer that still runs can add no more."""
        self._run(blob_id, _REMOVE, (blob_id,))

    def ids(self, prefix: str = "") -> Iterator[str]:
        """Yield the ids of whole blobs and of interrupted writes."""
        with self._cursor("*") as cursor:
            found = cursor.execute(_IDS, (prefix,)).fetchall()
        return (row[0] for row in found)

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._engine.dispose()

    def _run(self, blob_id: str, statement: str, values: tuple[object, ...]) -> int:
        with self._cursor(blob_id) as cursor:
            return cursor.execute(statement, values).rowcount

    @contextmanager
    def _cursor(self, blob_id: str) -> Iterator[psycopg.Cursor[Any]]:
        """A cursor of the driver itself, which moves bytes as bytes; its errors by our names."""
        with _named(blob_id):
            pooled = self._engine.raw_connection()
            connection = pooled.driver_connection
            assert isinstance(connection, psycopg.Connection)
            try:
                with connection.cursor(binary=True) as cursor:
                    yield cursor
            finally:
                if connection.closed:
                    pooled.invalidate()
                pooled.close()


@contextmanager
def _named(blob_id: str) -> Iterator[None]:
    """Name what went wrong as what the caller can do about it.

    Raises:
        StoreFull: the server had no room.
        StoreUnavailable: it cannot be reached, stopped, or no longer knows of what was begun.
    """
    try:
        yield
    except (psycopg.Error, DBAPIError, TimeoutError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(cause, errors.DiskFull):
            raise StoreFull(blob_id) from None
        # The last: the claim is gone, removed by somebody else or lost with a server that fell; nothing was kept either way.
        if isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError | TimeoutError | errors.ForeignKeyViolation):
            raise StoreUnavailable(blob_id) from error
        raise
