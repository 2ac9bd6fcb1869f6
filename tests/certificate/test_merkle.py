"""The trees are those of RFC 6962, in every shape up to 40 leaves, and a receipt proves one sample and no other."""

import hashlib

import pytest

from expunge import merkle

# Inputs and roots of the Certificate Transparency reference tests.
CT_LEAVES = [bytes.fromhex(h) for h in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")]
CT_ROOTS = (
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
CT_INCLUSION = {
    (0, 8): (
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ),
    (5, 8): (
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
}
CT_CONSISTENCY = {
    (1, 1): (),
    (1, 8): CT_INCLUSION[0, 8],
    (6, 8): (
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
    (2, 5): (
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ),
}
MOST = 40
LEAVES = [b"leaf %d" % i for i in range(MOST)]
HASHES = [hashlib.sha256(b"\x00" + leaf).digest() for leaf in LEAVES]


def split(n: int) -> int:
    """The largest power of two smaller than n (RFC 6962, section 2.1), by trying."""
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def mth(d: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, as written there."""
    if not d:
        return hashlib.sha256(b"").digest()
    if len(d) == 1:
        return hashlib.sha256(b"\x00" + d[0]).digest()
    k = split(len(d))
    return hashlib.sha256(b"\x01" + mth(d[:k]) + mth(d[k:])).digest()


def audit_path(m: int, d: list[bytes]) -> list[bytes]:
    """PATH of RFC 6962, section 2.1.1."""
    if len(d) == 1:
        return []
    k = split(len(d))
    return [*audit_path(m, d[:k]), mth(d[k:])] if m < k else [*audit_path(m - k, d[k:]), mth(d[:k])]


def subproof(m: int, d: list[bytes], b: bool) -> list[bytes]:
    """SUBPROOF of RFC 6962, section 2.1.2."""
    if m == len(d):
        return [] if b else [mth(d)]
    k = split(len(d))
    return [*subproof(m, d[:k], b), mth(d[k:])] if m <= k else [*subproof(m - k, d[k:], False), mth(d[:k])]


def test_roots_are_those_of_the_certificate_transparency_tests() -> None:
    hashes = [merkle.leaf_hash(leaf) for leaf in CT_LEAVES]

    roots = [merkle.root(hashes[:size]).hex() for size in range(9)]

    assert roots == list(CT_ROOTS)


@pytest.mark.parametrize(("index", "size"), CT_INCLUSION)
def test_inclusion_paths_are_those_of_the_certificate_transparency_tests(index: int, size: int) -> None:
    path = merkle.inclusion_path([merkle.leaf_hash(leaf) for leaf in CT_LEAVES[:size]], index)

    assert tuple(step.hex() for step in path) == CT_INCLUSION[index, size]


@pytest.mark.parametrize(("first", "second"), CT_CONSISTENCY)
def test_consistency_paths_are_those_of_the_certificate_transparency_tests(first: int, second: int) -> None:
    path = merkle.consistency_path([merkle.leaf_hash(leaf) for leaf in CT_LEAVES[:second]], first)

    assert tuple(step.hex() for step in path) == CT_CONSISTENCY[first, second]


@pytest.mark.parametrize("size", range(MOST + 1))
def test_a_root_is_the_recursive_definition(size: int) -> None:
    assert merkle.root(HASHES[:size]) == mth(LEAVES[:size])


@pytest.mark.parametrize("size", range(1, MOST + 1))
def test_every_inclusion_path_is_the_recursive_definition_and_no_other_leaf_fits_it(size: int) -> None:
    top = mth(LEAVES[:size])

    for index in range(size):
        path = merkle.inclusion_path(HASHES[:size], index)

        assert list(path) == audit_path(index, LEAVES[:size])
        fits = [(i, j) for i in range(size + 1) for j in (index, (index + 1) % size) if holds(HASHES[j], i, size, path, top)]
        assert set(fits) == {(index, index)}


def holds(leaf: bytes, index: int, size: int, path: tuple[bytes, ...], top: bytes) -> bool:
    return merkle.verify_inclusion(leaf, index=index, size=size, path=path, root=top)


def test_a_path_that_is_longer_shorter_reordered_or_changed_is_refused() -> None:
    path, top = merkle.inclusion_path(HASHES[:11], 5), mth(LEAVES[:11])
    wrong = [path[:-1], (*path, path[0]), path[::-1], (), *((*path[:i], HASHES[0], *path[i + 1 :]) for i in range(len(path)))]

    assert holds(HASHES[5], 5, 11, path, top)
    assert not any(holds(HASHES[5], 5, 11, other, top) for other in wrong)


def test_an_inner_node_cannot_pose_as_a_leaf() -> None:
    inner = merkle.node_hash(HASHES[0], HASHES[1])

    # Without prefixes the two children's concatenation would be a leaf with the inner node's hash.
    assert merkle.leaf_hash(HASHES[0] + HASHES[1]) != inner
    assert not holds(merkle.leaf_hash(HASHES[0] + HASHES[1]), 0, 2, merkle.inclusion_path(HASHES[:4], 0)[1:], mth(LEAVES[:4]))


@pytest.mark.parametrize("second", range(1, MOST + 1))
def test_every_consistency_path_is_the_recursive_definition_and_proves_no_other_past(second: int) -> None:
    new = mth(LEAVES[:second])

    for first in range(1, second + 1):
        path = merkle.consistency_path(HASHES[:second], first)

        assert list(path) == subproof(first, LEAVES[:second], True)
        assert consistent(first, second, path, mth(LEAVES[:first]), new)
        assert not consistent(first, second, path, mth([*LEAVES[: first - 1], b"rewritten"]), new)
        assert not consistent(first, second, (*path, new), mth(LEAVES[:first]), new)


def consistent(first: int, second: int, path: tuple[bytes, ...], old: bytes, new: bytes) -> bool:
    return merkle.verify_consistency(first=first, second=second, path=path, first_root=old, second_root=new)


@pytest.mark.parametrize("first", [0, 6])
def test_a_consistency_path_outside_the_log_is_an_error(first: int) -> None:
    with pytest.raises(ValueError, match="consistency path"):
        merkle.consistency_path(HASHES[:5], first)


def test_appending_with_peaks_alone_gives_the_roots_and_paths_of_the_whole_tree() -> None:
    peaks: tuple[bytes, ...] = ()

    for size, leaf in enumerate(LEAVES):
        grown = merkle.append(peaks, size, leaf)

        assert grown.size == size + 1
        assert grown.root == mth(LEAVES[: size + 1])
        assert list(grown.path) == audit_path(size, LEAVES[: size + 1])
        assert len(grown.peaks) == grown.size.bit_count()
        peaks = grown.peaks


def test_peaks_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="peaks"):
        merkle.append((HASHES[0], HASHES[1]), 4, b"leaf")


SEED = bytes(32)
IDS = tuple(f"person-{i}" for i in range(23))


def test_every_receipt_proves_its_own_sample_and_no_other() -> None:
    values = merkle.values_of(SEED, IDS)
    commitment = merkle.commit(values)

    receipts = merkle.receipts(SEED, IDS, values)

    for holder in IDS:
        proved = [name for name in (*IDS, "stranger") if receipt_holds(name, receipts[holder], commitment)]
        assert proved == [holder]


def receipt_holds(name: str, receipt: merkle.Receipt, commitment: merkle.Commitment) -> bool:
    return merkle.verify_receipt(name, receipt, root=commitment.root, count=commitment.count)


def test_the_commitment_does_not_depend_on_the_order_and_hides_behind_the_seed() -> None:
    forward, back = merkle.commit(merkle.values_of(SEED, IDS)), merkle.commit(merkle.values_of(SEED, IDS[::-1]))
    other = merkle.commit(merkle.values_of(b"\x01" * 32, IDS))

    assert forward == back
    assert forward.root != other.root


def test_a_job_of_two_requests_commits_to_the_samples_of_both() -> None:
    seeds = {b"\x01" * 32: IDS[:9], b"\x02" * 32: IDS[9:]}
    values = [value for seed, ids in seeds.items() for value in merkle.values_of(seed, ids)]

    commitment = merkle.commit(values)

    assert commitment.count == len(IDS)
    for seed, ids in seeds.items():
        assert all(receipt_holds(name, merkle.receipt(seed, name, values), commitment) for name in ids)


def test_the_leaf_values_are_the_documented_hmacs() -> None:
    def hmac_sha256(key: bytes, message: bytes) -> bytes:
        key = key.ljust(64, b"\0")
        inner = hashlib.sha256(bytes(k ^ 0x36 for k in key) + message).digest()
        return hashlib.sha256(bytes(k ^ 0x5C for k in key) + inner).digest()

    (value,) = merkle.values_of(SEED, ["s-17"])

    assert value == hmac_sha256(hmac_sha256(SEED, b"s-17"), b"s-17")
    assert merkle.commit([value]).root == hashlib.sha256(b"\x00" + value).hexdigest()


def test_a_sample_that_comes_twice_or_was_never_asked_for_is_an_error() -> None:
    values = merkle.values_of(SEED, IDS)

    with pytest.raises(ValueError, match="twice"):
        merkle.commit([*values, values[0]])
    with pytest.raises(KeyError):
        merkle.receipt(SEED, "stranger", values)


def test_the_empty_set_has_the_root_of_the_empty_tree() -> None:
    assert merkle.commit([]) == merkle.Commitment(count=0, root=hashlib.sha256(b"").hexdigest())
