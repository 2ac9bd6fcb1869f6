"""What names a person is nowhere in the servers' memory or on their disks: not even while it is being carried out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import redis

from tests.digits import Digits
from tests.live import Cluster
from tests.servers import Server


def raw(directory: Path) -> bytes:
    """All bytes of a server's files: tables, write-ahead log, its own log."""
    return b"\n".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


def test_neither_database_nor_redis_ever_learns_whom_to_forget(
    cluster: Callable[..., Cluster], postgres: Server, redis_server: Server, data: Digits
) -> None:
    service, person = cluster(), "person-11"
    ids = data.of(subject=person)
    service.fit("findable-model", "digits")

    request = service.forget("findable-model", subjects=[person], reference="findable-reference")
    service.request(request.json()["id"])
    disk, client = raw(postgres.directory), redis.Redis.from_url(redis_server.url)
    memory = b"".join(bytes(client.dump(key) or b"") for key in client.keys("*"))

    assert b"findable-model" in disk and b"findable-reference" in disk  # the search finds what is there
    for marker in (person, *ids):
        assert marker.encode() not in disk
        assert marker.encode() not in memory
        assert marker not in service.log
