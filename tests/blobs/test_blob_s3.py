"""What is true of buckets alone: objects and their names, damage done to objects, and a bucket that does not answer."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import obstore
import pytest
from obstore.store import S3Store

from service.blobs import BlobDamaged, BlobExists, BlobMissing, NoSuchStore, StoreUnavailable, Vault, open_vault
from service.blobs.keys import KeyDirectory
from service.blobs.port import CHUNK, RECORD, TRAILER

PLAIN = random.Random(9).randbytes(18 * CHUNK)
BUCKET = "objects-of-blobs"


@dataclass(frozen=True)
class Objects:
    """A bucket as its own client sees it."""

    client: Any

    def sizes(self) -> dict[str, int]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        return {entry["Key"]: entry["Size"] for page in pages for entry in page.get("Contents", [])}

    def get(self, name: str) -> bytes:
        return bytes(self.client.get_object(Bucket=BUCKET, Key=name)["Body"].read())

    def put(self, name: str, content: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=name, Body=content)

    def delete(self, *names: str) -> None:
        for begins in range(0, len(names), 1000):
            entries = [{"Key": name} for name in names[begins : begins + 1000]]
            self.client.delete_objects(Bucket=BUCKET, Delete={"Objects": entries})


@pytest.fixture
def objects(bucket_server: str) -> Iterator[Objects]:
    client = boto3.client("s3", endpoint_url=bucket_server)
    client.create_bucket(Bucket=BUCKET)
    found = Objects(client)
    yield found
    found.delete(*found.sizes())
    client.delete_bucket(Bucket=BUCKET)


@pytest.fixture
def vault(objects: Objects, bucket_server: str, tmp_path: Path) -> Vault:
    return open_vault(f"s3://{BUCKET}?endpoint={bucket_server}", tmp_path / "keys", data_dir=tmp_path, database_url=None)


def test_a_small_blob_is_one_object_and_a_large_one_an_object_each_eight_records(vault: Vault, objects: Objects) -> None:
    tail = TRAILER + 4

    for chunks in (0, 8, 9, 16):
        vault.put(f"up-{chunks}", PLAIN[: chunks * CHUNK])

    assert objects.sizes() == {
        "up-0/whole": tail,
        "up-8/whole": 8 * RECORD + tail,
        "up-9/00000": 8 * RECORD,
        "up-9/end": RECORD + tail,
        "up-16/00000": 8 * RECORD,
        "up-16/end": 8 * RECORD + tail,
    }
    assert not objects.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads")


def test_an_unfinished_write_is_no_blob_and_blocks_its_id_until_shredded(vault: Vault, objects: Objects) -> None:
    objects.put("up-1/00000", b"rest")

    with pytest.raises(BlobMissing):
        vault.stat("up-1")
    with pytest.raises(BlobMissing):
        list(vault.blobs.records("up-1", 8, 9))
    for content in (PLAIN, b"small"):
        with pytest.raises(BlobExists):
            vault.put("up-1", content)
    assert list(vault.ids()) == ["up-1"]
    vault.shred("up-1")
    assert objects.sizes() == {}
    assert vault.put("up-1", PLAIN).size == len(PLAIN)


@pytest.mark.parametrize("chunks", [1, 9, 10, 17, 18])
def test_a_put_that_fails_takes_the_objects_it_had_put_with_it(vault: Vault, objects: Objects, chunks: int) -> None:
    seen: list[int] = []

    def source() -> Iterator[bytes]:
        yield PLAIN[: chunks * CHUNK]
        seen.append(len(objects.sizes()))
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        vault.put("up-1", source())

    assert seen == [max(0, (chunks - 2) // 8)]
    assert objects.sizes() == {}


@pytest.mark.parametrize(("first", "second"), [(b"small", PLAIN), (PLAIN, b"small")], ids=["large over small", "small over large"])
def test_a_blob_of_another_shape_does_not_take_the_id(vault: Vault, objects: Objects, tmp_path: Path, first: bytes, second: bytes) -> None:
    vault.put("up-1", first)
    before = objects.sizes()

    with pytest.raises(BlobExists):
        Vault(vault.blobs, KeyDirectory(tmp_path / "other keys")).put("up-1", second)

    assert objects.sizes() == before
    assert vault.read("up-1") == first


def test_an_object_that_is_there_is_never_replaced(vault: Vault, objects: Objects) -> None:
    def source() -> Iterator[bytes]:
        yield PLAIN
        objects.put("up-1/end", b"another's")

    with pytest.raises(BlobExists):
        vault.put("up-1", source())

    assert list(vault.keys.ids()) == []


@pytest.mark.parametrize("name", ["00000", "00001", "end"])
@pytest.mark.parametrize("what", ["gone", "empty", "cut", "flipped", "longer", "the other group"])
def test_damage_to_any_object_is_noticed(vault: Vault, objects: Objects, name: str, what: str) -> None:
    vault.put("up-1", PLAIN)
    path = f"up-1/{name}"
    content = objects.get(path)
    other = objects.get("up-1/00001" if name == "00000" else "up-1/00000")

    if what == "gone":
        objects.delete(path)
    else:
        flipped = content[:99] + bytes([content[99] ^ 1]) + content[100:]
        changed = {"empty": b"", "cut": content[:-1], "flipped": flipped, "longer": content + b"\0", "the other group": other}
        objects.put(path, changed[what])

    given = bytearray()
    with pytest.raises(BlobMissing if (name, what) == ("end", "gone") else BlobDamaged):
        for chunk in vault.stream("up-1"):
            given += chunk
    assert PLAIN.startswith(given)
    assert len(given) < len(PLAIN)


@pytest.mark.parametrize("count", [0, 1, 3, 2**32 - 1])
def test_a_false_count_of_objects_is_noticed(vault: Vault, objects: Objects, count: int) -> None:
    vault.put("up-1", PLAIN)
    last = objects.get("up-1/end")

    objects.put("up-1/end", last[:-4] + count.to_bytes(4, "big"))

    assert last[-4:] == (2).to_bytes(4, "big")
    with pytest.raises(BlobDamaged):
        vault.stat("up-1")


def test_other_objects_in_the_bucket_are_neither_listed_nor_removed(objects: Objects, bucket_server: str, tmp_path: Path) -> None:
    address = f"s3://{BUCKET}/expunge/blobs?endpoint={bucket_server}"
    vault = open_vault(address, tmp_path / "keys", data_dir=tmp_path, database_url=None)
    for name in ("up-1/whole", "expunge/up-1/whole", "expunge/blobs2/up-1/whole", "expunge/blobs/up-11/whole"):
        objects.put(name, b"not ours")
    vault.put("up-1", b"ours")

    listed = list(vault.ids()), list(vault.ids("up-11"))
    vault.shred("up-1")

    assert listed == (["up-1", "up-11"], ["up-11"])
    assert set(objects.sizes()) == {"up-1/whole", "expunge/up-1/whole", "expunge/blobs2/up-1/whole", "expunge/blobs/up-11/whole"}


def test_more_blobs_than_a_page_are_all_listed_in_order(vault: Vault, objects: Objects, bucket_server: str) -> None:
    names = [f"job-{number:04}" for number in range(1010)]
    bucket = S3Store(BUCKET, endpoint=bucket_server, client_options={"allow_http": True})
    for name in names:
        obstore.put(bucket, f"{name}/whole", b"x")

    assert list(vault.blobs.ids()) == names
    assert list(vault.blobs.ids("job-100")) == names[1000:]
    assert list(vault.blobs.ids("job-2")) == []


def assert_away(vault: Vault) -> None:
    uses = (vault.shred, lambda blob_id: vault.put(blob_id, b"x"), lambda _: list(vault.blobs.ids()))
    for use in uses:
        with pytest.raises(StoreUnavailable) as raised:
            use("up-1")
        assert "127.0.0.1" not in str(raised.value)


def test_a_bucket_that_is_not_there_is_named_and_never_taken_for_an_erased_blob(bucket_server: str, tmp_path: Path) -> None:
    vault = open_vault(f"s3://no-such-bucket?endpoint={bucket_server}", tmp_path / "keys", data_dir=tmp_path, database_url=None)

    assert_away(vault)

    assert list(vault.keys.ids()) == []


def test_a_server_that_does_not_answer_is_named_within_seconds(tmp_path: Path, bucket_server: str) -> None:
    with socket.socket() as closed:  # Bound and not listening: nobody else gets the port, nobody answers.
        closed.bind(("127.0.0.1", 0))
        address = f"s3://{BUCKET}?endpoint=http://127.0.0.1:{closed.getsockname()[1]}"
        vault = open_vault(address, tmp_path / "keys", data_dir=tmp_path, database_url=None)

        assert_away(vault)
        with pytest.raises(StoreUnavailable):
            vault.read("up-1")


def test_a_bucket_that_keeps_versions_keeps_ciphertext_without_a_key(vault: Vault, objects: Objects) -> None:
    objects.client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    marker = b"MARKER-of-a-person-88aa12"
    vault.put("up-1", marker * 1000)

    vault.shred("up-1")

    kept = objects.client.list_object_versions(Bucket=BUCKET)["Versions"]
    contents = [objects.client.get_object(Bucket=BUCKET, Key=v["Key"], VersionId=v["VersionId"])["Body"].read() for v in kept]
    assert len(contents) == 1
    assert marker not in contents[0]
    assert list(vault.ids()) == []
    for version in [*kept, *objects.client.list_object_versions(Bucket=BUCKET).get("DeleteMarkers", [])]:
        objects.client.delete_object(Bucket=BUCKET, Key=version["Key"], VersionId=version["VersionId"])


@pytest.mark.parametrize(
    "address",
    [
        "s3:",
        "s3://",
        "s3:bucket",
        "s3:///prefix",
        "s3://key:secret@bucket",
        "s3://bucket?acces_key=1",
        "s3://bucket?endpoint=",
        "s3://bucket?endpoint=http://a&endpoint=http://b",
        "s3://bucket#part",
    ],
)
def test_an_address_that_says_something_else_is_refused_and_not_repeated(tmp_path: Path, address: str) -> None:
    with pytest.raises(NoSuchStore, match="s3://BUCKET") as raised:
        open_vault(address, tmp_path / "keys", data_dir=tmp_path, database_url=None)

    assert "secret" not in str(raised.value)
