"""Whatever is changed, moved, cut or added at rest is noticed, and no wrong byte is ever handed out."""

import random
from collections.abc import Callable

import pytest

from service.blobs import BlobDamaged, Vault
from service.blobs.cipher import Cipher, cut
from service.blobs.port import CHUNK, TAG

SMALL = b"sixty bytes of a person's life, sealed, for flipping bits in"
LARGE = random.Random(2).randbytes(3 * CHUNK + 1000)


def records_of(vault: Vault, blob_id: str) -> list[bytes]:
    count = vault.stat(blob_id).chunks
    return [*(bytes(record) for record in vault.blobs.records(blob_id, 0, count)), vault.blobs.end(blob_id).trailer]


def replace(vault: Vault, blob_id: str, records: list[bytes]) -> None:
    vault.blobs.remove(blob_id)
    vault.blobs.write(blob_id, records)


def flipped(record: bytes, at: int, bit: int = 0) -> bytes:
    return record[:at] + bytes([record[at] ^ 1 << bit]) + record[at + 1 :]


def assert_damaged(vault: Vault, blob_id: str, plain: bytes) -> None:
    given = bytearray()
    with pytest.raises(BlobDamaged, match=blob_id) as raised:
        for chunk in vault.stream(blob_id):
            given += chunk
    assert plain.startswith(given)
    assert len(given) < len(plain)
    assert raised.value.__cause__ is None
    with pytest.raises(BlobDamaged):
        vault.read(blob_id)
    with pytest.raises(BlobDamaged), vault.open(blob_id) as reader:
        reader.read()


def test_a_flip_of_any_byte_of_a_small_blob_is_noticed(vault: Vault) -> None:
    vault.put("up-1", SMALL)
    whole = records_of(vault, "up-1")

    for number, record in enumerate(whole):
        for at in range(len(record)):
            replace(vault, "up-1", [*whole[:number], flipped(record, at, at % 8), *whole[number + 1 :]])
            assert_damaged(vault, "up-1", SMALL)

    replace(vault, "up-1", whole)
    assert vault.read("up-1") == SMALL


def test_a_flip_of_sampled_bytes_of_a_large_blob_is_noticed(vault: Vault) -> None:
    vault.put("up-1", LARGE)
    whole = records_of(vault, "up-1")
    draw = random.Random(3)

    for number, record in enumerate(whole):
        for at in (0, len(record) - TAG - 1, len(record) - TAG, len(record) - 1, *(draw.randrange(len(record)) for _ in range(4))):
            replace(vault, "up-1", [*whole[:number], flipped(record, at, draw.randrange(8)), *whole[number + 1 :]])
            assert_damaged(vault, "up-1", LARGE)


def _without(number: int) -> Callable[[list[bytes]], list[bytes]]:
    return lambda whole: [*whole[:number], *whole[number + 1 :]]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda whole: [whole[1], whole[0], *whole[2:]], id="two chunks swapped"),
        pytest.param(lambda whole: [whole[0], whole[0], *whole[2:]], id="one chunk in the place of another"),
        pytest.param(lambda whole: [whole[0], *whole], id="one chunk twice"),
        *(pytest.param(_without(number), id=f"without chunk {number}") for number in range(4)),
        *(pytest.param(lambda whole, keep=keep: whole[:keep], id=f"cut after {keep} chunks") for keep in range(5)),
        *(pytest.param(lambda whole, keep=keep: [*whole[:keep], whole[-1]], id=f"{keep} chunks, then the trailer") for keep in range(4)),
        pytest.param(lambda whole: [*whole, b"\0"], id="a byte after the end"),
        pytest.param(lambda whole: [*whole, whole[-1]], id="a second trailer"),
        pytest.param(lambda whole: [*whole, whole[0]], id="a chunk after the end"),
        pytest.param(lambda whole: [*whole[:-1], whole[-2], whole[-1]], id="a chunk before the trailer"),
        pytest.param(lambda whole: [*whole[:-2], whole[-2] + b"\0", whole[-1]], id="a byte before the trailer"),
        pytest.param(lambda whole: [*whole[:-1], whole[-1][:-1]], id="a byte less"),
        pytest.param(lambda whole: [], id="nothing left"),
    ],
)
def test_records_moved_cut_or_added_are_noticed(vault: Vault, change: Callable[[list[bytes]], list[bytes]]) -> None:
    vault.put("up-1", LARGE)
    before = records_of(vault, "up-1")

    replace(vault, "up-1", change(before))

    assert len(before) == 5
    assert_damaged(vault, "up-1", LARGE)


@pytest.mark.parametrize("size", [CHUNK, 2 * CHUNK])
def test_a_cut_at_a_chunk_border_is_noticed_when_all_chunks_are_full(vault: Vault, size: int) -> None:
    vault.put("up-1", LARGE[:size])
    whole = records_of(vault, "up-1")

    for keep in range(len(whole) - 1):
        for end in ([], [whole[-1]]):
            replace(vault, "up-1", [*whole[:keep], *end])
            assert_damaged(vault, "up-1", LARGE[:size])


def test_a_blob_cut_after_a_stream_was_promised_is_noticed(vault: Vault) -> None:
    vault.put("up-1", LARGE)
    whole = records_of(vault, "up-1")
    promised = [vault.stream("up-1"), vault.stream("up-1", 1, CHUNK + 1)]

    replace(vault, "up-1", [whole[0], whole[-1]])

    for stream in promised:
        assert next(stream) in (LARGE[:CHUNK], LARGE[1:CHUNK])
        with pytest.raises(BlobDamaged, match="chunk 1"):
            next(stream)


def test_an_emptied_blob_and_a_lengthened_empty_blob_are_noticed(vault: Vault) -> None:
    vault.put("up-1", b"")
    whole = records_of(vault, "up-1")

    for records in ([], [b"\0" * 17, *whole], [*whole, b"\0"], [*whole, *whole]):
        replace(vault, "up-1", records)
        with pytest.raises(BlobDamaged):
            vault.read("up-1")


def test_two_blobs_of_one_size_cannot_stand_in_for_each_other(vault: Vault) -> None:
    plain = {"up-1": LARGE, "up-2": LARGE[::-1]}
    for blob_id, content in plain.items():
        vault.put(blob_id, content)
    one, two = records_of(vault, "up-1"), records_of(vault, "up-2")

    replace(vault, "up-1", two)
    replace(vault, "up-2", one)
    for blob_id, content in plain.items():
        assert_damaged(vault, blob_id, content)

    replace(vault, "up-1", [*one[:-1], two[-1]])
    replace(vault, "up-2", [*two[:1], *one[1:2], *two[2:]])
    for blob_id, content in plain.items():
        assert_damaged(vault, blob_id, content)


def test_a_record_is_bound_to_the_id_even_under_the_same_key() -> None:
    key = bytes(range(32))
    first = bytes(next(Cipher("up-1", key).seal_chunks([LARGE[:CHUNK]])))

    with pytest.raises(BlobDamaged):
        Cipher("up-2", key).open_chunk(0, first)

    assert Cipher("up-1", key).open_chunk(0, first) == LARGE[:CHUNK]


def test_the_end_of_an_earlier_blob_with_the_same_id_is_noticed(vault: Vault) -> None:
    vault.put("up-1", LARGE)
    earlier = records_of(vault, "up-1")
    vault.shred("up-1")
    vault.put("up-1", LARGE)
    later = records_of(vault, "up-1")

    for mixed in (earlier, [*later[:-1], earlier[-1]], [earlier[0], *later[1:]]):
        replace(vault, "up-1", mixed)
        assert_damaged(vault, "up-1", LARGE)


def test_content_that_does_not_have_its_digest_is_noticed_before_the_last_chunk(vault: Vault) -> None:
    other = flipped(LARGE, len(LARGE) - 1)
    vault.put("up-1", LARGE)
    trailer = records_of(vault, "up-1")[-1]
    # Only one who holds the key can make such a blob: every record authenticates, the digest is of other content.
    forged = [*list(map(bytes, Cipher("up-1", vault.keys.load("up-1")).seal_chunks(cut([other]))))[:-1], trailer]
    replace(vault, "up-1", forged)

    given = bytearray()
    with pytest.raises(BlobDamaged, match="digest"):
        for chunk in vault.stream("up-1"):
            given += chunk

    assert bytes(given) == other[: 3 * CHUNK]
    assert b"".join(vault.stream("up-1", 1)) == other[1:]


def test_a_range_touches_only_the_chunks_that_hold_it(vault: Vault) -> None:
    vault.put("up-1", LARGE)
    whole = records_of(vault, "up-1")
    replace(vault, "up-1", [flipped(whole[0], 5), *whole[1:3], flipped(whole[3], 5), whole[4]])

    held = b"".join(vault.stream("up-1", CHUNK, 3 * CHUNK))

    assert held == LARGE[CHUNK : 3 * CHUNK]
    for start, stop in [(CHUNK - 1, CHUNK + 1), (3 * CHUNK - 1, 3 * CHUNK + 1)]:
        with pytest.raises(BlobDamaged):
            b"".join(vault.stream("up-1", start, stop))


def test_an_error_shows_no_content(vault: Vault) -> None:
    vault.put("up-1", SMALL)
    whole = records_of(vault, "up-1")
    replace(vault, "up-1", [flipped(whole[0], 0), whole[1]])

    with pytest.raises(BlobDamaged) as raised:
        vault.read("up-1")

    assert str(raised.value) == "blob up-1: chunk 0 is not what was stored"
