"""What is put is what is read, whole, by range, by file, from any kind of source."""

import hashlib
import io
import itertools
import random
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.blobs import BadBlobId, BlobDamaged, BlobExists, BlobMissing, KeyMissing, Sealed, Vault
from service.blobs.cipher import cut
from service.blobs.keys import KeyDirectory
from service.blobs.port import CHUNK, SMALL, BlobStore, End, Octets

SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 7 * CHUNK // 2]
LARGE = random.Random(1).randbytes(7 * CHUNK // 2)
HOSTILE = ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\n", "a\0", "\u00e9", "a" * 121, " a", "a\\b", ".hidden", "..a", "%2e%2e"]
borders = st.one_of(
    st.integers(0, len(LARGE) + 9),
    st.builds(lambda chunk, off: max(0, chunk * CHUNK + off), st.integers(0, 4), st.integers(-2, 2)),
)
# The blob under test is never changed, so examples may share it.
shared = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("size", SIZES)
def test_what_is_read_is_what_was_put(vault: Vault, size: int) -> None:
    plain = random.Random(size).randbytes(size)

    sealed = vault.put("up-1", plain)

    assert sealed == Sealed("up-1", size, hashlib.sha256(plain).hexdigest(), -(-size // CHUNK))
    assert vault.stat("up-1") == sealed
    assert vault.read("up-1") == plain
    assert [len(chunk) for chunk in vault.stream("up-1")] == [len(plain[i : i + CHUNK]) for i in range(0, size, CHUNK)]


@pytest.mark.parametrize("size", SIZES)
def test_every_kind_of_source_gives_the_same_blob(vault: Vault, tmp_path: Path, size: int) -> None:
    plain = LARGE[:size]
    path = tmp_path / "source"
    path.write_bytes(plain)
    odd = [plain[i : i + 99_991] for i in range(0, size, 99_991)]

    with path.open("rb") as buffered, path.open("rb", buffering=0) as raw:
        sources: list[Octets | BinaryIO | Iterable[Octets]] = [
            plain,
            bytearray(plain),
            memoryview(plain),
            io.BytesIO(plain),
            buffered,
            raw,
            odd,
            iter(odd),
            [b"", plain, b""],
        ]
        sealed = [vault.put(f"up-{number}", source) for number, source in enumerate(sources)]

    assert {(s.size, s.sha256) for s in sealed} == {(size, hashlib.sha256(plain).hexdigest())}
    assert all(vault.read(s.blob_id) == plain for s in sealed)


@given(st.lists(st.integers(0, 5 * CHUNK // 2), max_size=6))
@settings(max_examples=30, deadline=None)
def test_pieces_of_any_length_are_cut_into_full_chunks(lengths: list[int]) -> None:
    plain = LARGE * 5
    ends = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    pieces = [plain[a:b] for a, b in itertools.pairwise(ends)]

    chunks = [bytes(chunk) for chunk in cut(pieces)]

    assert b"".join(chunks) == b"".join(pieces)
    assert all(len(chunk) == CHUNK for chunk in chunks[:-1])
    assert all(chunks)


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(chunks * CHUNK - less, marks=() if (chunks, less) in ((8, 0), (8, 5), (17, 5)) else pytest.mark.slow)
        for chunks in (7, 8, 9, 16, 17)
        for less in (0, 5)
    ],
)
def test_a_blob_of_many_chunks_is_read_whole_and_by_range(vault: Vault, size: int) -> None:
    plain = random.Random(size).randbytes(size)

    vault.put("up-1", plain)

    assert vault.read("up-1") == plain
    ends = [(0, 1), (len(plain) - 1, None)]
    for start, stop in [*ends, (7 * CHUNK - 9, 8 * CHUNK + 9), (8 * CHUNK, 8 * CHUNK + 1), (3 * CHUNK + 1, 17 * CHUNK)]:
        assert b"".join(vault.stream("up-1", start, stop)) == plain[start:stop]
    vault.shred("up-1")
    assert list(vault.ids()) == []


def test_many_blobs_are_read_as_one_by_one_in_the_order_asked_for(vault: Vault) -> None:
    sizes = [5, 0, CHUNK + 1, SMALL, SMALL + 1, 17, *range(100)]
    for number, size in enumerate(sizes):
        vault.put(f"up-{number}", LARGE[number : number + size])
    order = random.Random(2).sample(range(len(sizes)), len(sizes))

    found = list(vault.read_each([f"up-{number}" for number in order]))

    assert found == [LARGE[number : number + sizes[number]] for number in order]


def test_of_many_blobs_one_that_is_missing_shredded_or_another_is_named(vault: Vault) -> None:
    for name in ("up-1", "up-2", "up-3"):
        vault.put(name, name.encode())
    vault.keys.destroy("up-2")

    with pytest.raises(BlobMissing, match="up-9"):
        list(vault.read_each(["up-1", "up-9"]))
    with pytest.raises(KeyMissing, match="up-2"):
        list(vault.read_each(["up-1", "up-2"]))
    with pytest.raises(BlobDamaged, match="up-1"):
        list(Vault(Swapped(vault.blobs), vault.keys).read_each(["up-1", "up-3"]))


class Swapped(BlobStore):
    """Gives of each blob what belongs to another."""

    def __init__(self, true: BlobStore) -> None:
        self.true = true

    def heads(self, blob_ids: Sequence[str]) -> Iterator[tuple[End, Octets | None]]:
        yield from self.true.heads(list(reversed(blob_ids)))


def test_text_is_refused_and_leaves_nothing(vault: Vault) -> None:
    with pytest.raises(TypeError):
        vault.put("up-1", io.StringIO("text"))  # type: ignore[arg-type]

    assert list(vault.ids()) == []


def test_a_range_is_a_slice(vault: Vault) -> None:
    vault.put("up-1", LARGE)

    @given(borders, st.one_of(st.none(), borders))
    @shared
    def holds(start: int, stop: int | None) -> None:
        assert b"".join(vault.stream("up-1", start, stop)) == LARGE[start:stop]

    holds()


def test_a_negative_bound_is_refused(vault: Vault) -> None:
    vault.put("up-1", b"abc")

    for start, stop in [(-1, None), (0, -1)]:
        with pytest.raises(ValueError, match="not negative"):
            vault.stream("up-1", start, stop)


def test_a_missing_blob_is_named_by_the_call_not_by_the_first_chunk(vault: Vault) -> None:
    for lookup in (vault.stream, vault.open, vault.read, vault.stat):
        with pytest.raises(BlobMissing, match="up-1") as raised:
            lookup("up-1")
        assert raised.value.blob_id == "up-1"


def test_a_reader_behaves_as_a_file_over_the_same_bytes(vault: Vault) -> None:
    vault.put("up-1", LARGE)
    moves = st.lists(st.tuples(st.sampled_from(["set", "end", "read", "read"]), borders), max_size=12)

    @given(moves)
    @shared
    def holds(steps: list[tuple[str, int]]) -> None:
        with vault.open("up-1") as reader, io.BytesIO(LARGE) as truth:
            for what, number in steps:
                if what == "read":
                    assert reader.read(number) == truth.read(number)
                elif what == "set":
                    assert reader.seek(number) == truth.seek(number)
                else:
                    back = -min(number, len(LARGE))
                    assert reader.seek(back, io.SEEK_END) == truth.seek(back, io.SEEK_END)
                assert reader.tell() == truth.tell()
            assert reader.read() == truth.read()

    holds()


def test_a_closed_reader_reads_no_more(vault: Vault) -> None:
    vault.put("up-1", b"abc")
    reader = vault.open("up-1")
    reader.close()

    with pytest.raises(ValueError, match="closed"):
        reader.read(1)


def test_parquet_is_read_through_a_reader(vault: Vault) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"sample_id": [f"s-{i}" for i in range(200_000)], "label": list(range(200_000))})
    file = io.BytesIO()
    parquet.write_table(table, file, row_group_size=10_000, compression="none")
    assert len(file.getvalue()) > 2 * CHUNK
    vault.put("up-1", file.getvalue())

    with vault.open("up-1") as reader:
        group = parquet.ParquetFile(reader).read_row_group(17)

    assert group.equals(table.slice(170_000, 10_000))


@pytest.mark.parametrize("blob_id", HOSTILE)
def test_an_id_that_could_be_a_path_is_refused_everywhere(vault: Vault, blob_id: str) -> None:
    for use in (vault.stat, vault.stream, vault.read, vault.open, vault.shred, partial(vault.put, source=b"x")):
        with pytest.raises(BadBlobId) as raised:
            use(blob_id)
        assert len(blob_id) < 3 or blob_id not in str(raised.value)

    assert list(vault.ids()) == []


def test_the_widest_ids_are_allowed(vault: Vault) -> None:
    allowed = ["a" * 120, "A-b_c.d", "job-01H-3-0", "a..b", "-x", "x.blob", "x.key", "x.part", "x"]

    for number, blob_id in enumerate(allowed):
        vault.put(blob_id, bytes([number]))

    assert [vault.read(blob_id) for blob_id in allowed] == [bytes([number]) for number in range(len(allowed))]
    assert list(vault.ids()) == sorted(allowed)


def test_ids_are_listed_by_prefix(vault: Vault) -> None:
    for blob_id in ("job-7-1-0", "job-7-2-0", "job-71-1-0", "up-7"):
        vault.put(blob_id, b"x")

    assert list(vault.ids("job-7-")) == ["job-7-1-0", "job-7-2-0"]
    assert list(vault.ids("none")) == []


def test_a_blob_is_written_once(vault: Vault) -> None:
    vault.put("up-1", b"first")

    with pytest.raises(BlobExists):
        vault.put("up-1", b"second")

    assert vault.read("up-1") == b"first"


def test_two_writers_of_one_id_get_one_blob_and_harm_it_not(vault: Vault, tmp_path: Path) -> None:
    other = Vault(vault.blobs, KeyDirectory(tmp_path / "other keys"))
    within: list[str] = []

    def source() -> Iterator[bytes]:
        yield LARGE
        try:
            other.put("up-1", b"the other's")
            within.append("stored")
        except BlobExists:
            within.append("taken")

    try:
        vault.put("up-1", source())
        owner, content = vault, LARGE
    except BlobExists:
        owner, content = other, b"the other's"

    assert within == ["taken" if owner is vault else "stored"]
    assert owner.read("up-1") == content
    for late in (vault, other):
        with pytest.raises(BlobExists):
            late.put("up-1", b"late")
    assert owner.read("up-1") == content


def test_an_id_used_again_after_shredding_has_a_new_key(vault: Vault) -> None:
    vault.put("up-1", b"same")
    first = vault.keys.load("up-1"), vault.blobs.end("up-1").trailer
    vault.shred("up-1")

    vault.put("up-1", b"same")

    assert vault.keys.load("up-1") != first[0]
    assert vault.blobs.end("up-1").trailer != first[1]
    assert vault.read("up-1") == b"same"


def test_an_error_of_the_source_passes_through_and_leaves_nothing(vault: Vault) -> None:
    class Disconnected(Exception):
        pass

    def source() -> Iterator[bytes]:
        yield LARGE
        raise Disconnected

    with pytest.raises(Disconnected):
        vault.put("up-1", source())

    assert list(vault.ids()) == []
    vault.put("up-1", b"again")
    assert vault.read("up-1") == b"again"


def test_threads_use_distinct_blobs_at_once(vault: Vault) -> None:
    wrong: list[int] = []

    def work(number: int) -> None:
        plain = LARGE[number * 1000 :]
        for turn in range(3):
            vault.put(f"up-{number}-{turn}", plain)
            if vault.read(f"up-{number}-{turn}") != plain:
                wrong.append(number)
            if turn:
                vault.shred(f"up-{number}-{turn}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []
    assert list(vault.ids()) == [f"up-{number}-0" for number in range(6)]
