"""Merkle trees of RFC 6962: roots, paths, and commitments to a set of samples that reveal none of them."""

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

EMPTY = hashlib.sha256(b"").digest()
"""The root of the tree without leaves (RFC 6962, section 2.1)."""


def leaf_hash(data: bytes) -> bytes:
    """Hash a leaf: sha256(0x00 || data). The prefix keeps a node from posing as a leaf."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two children: sha256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def levels(hashes: Sequence[bytes]) -> list[list[bytes]]:
    """Build the tree from leaf hashes upwards; a last node without a neighbour rises unchanged.

    Rising unchanged gives the same tree as the split at the largest power of two in RFC 6962, section 2.1.

    Returns:
        level 0 = the leaf hashes, the last level = the root alone (no level above an empty tree).
    """
    tree = [list(hashes)]
    while len(tree[-1]) > 1:
        below = tree[-1]
        above = [node_hash(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)]
        tree.append(above + below[len(below) - len(below) % 2 :])
    return tree


def root(hashes: Sequence[bytes]) -> bytes:
    """Give the Merkle tree hash of leaf hashes, in their order."""
    return levels(hashes)[-1][0] if hashes else EMPTY


def path_in(tree: Sequence[Sequence[bytes]], index: int) -> tuple[bytes, ...]:
    """Give the audit path of one leaf in a tree made by `levels`: O(log n), so a tree is built once for many paths.

    Raises:
        IndexError: no such leaf.
    """
    if not 0 <= index < len(tree[0]):
        raise IndexError(f"leaf {index} of {len(tree[0])}")
    path = []
    for level in tree[:-1]:
        if index ^ 1 < len(level):
            path.append(level[index ^ 1])
        index //= 2
    return tuple(path)


def inclusion_path(hashes: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """Give the audit path of leaf `index`, from the leaf upwards (RFC 6962, section 2.1.1)."""
    return path_in(levels(hashes), index)


def verify_inclusion(leaf: bytes, *, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Say whether a leaf hash is leaf `index` of the tree of `size` leaves with this root.

    Source: RFC 9162, section 2.1.3.2 (the same trees as RFC 6962).
    """
    if not 0 <= index < size:
        return False
    here, last, above = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if here & 1 or here == last:
            above = node_hash(sibling, above)
            while not here & 1 and here:
                here, last = here >> 1, last >> 1
        else:
            above = node_hash(above, sibling)
        here, last = here >> 1, last >> 1
    return last == 0 and above == root


def consistency_path(hashes: Sequence[bytes], first: int) -> tuple[bytes, ...]:
    """Prove that the first `first` leaves are the beginning of these (RFC 6962, section 2.1.2).

    Raises:
        ValueError: `first` is not in 1 to len(hashes).
    """
    if not 1 <= first <= len(hashes):
        raise ValueError(f"a consistency path runs from 1 to {len(hashes)} leaves, not from {first}")
    return _subproof(first, hashes, whole=True)


def _subproof(first: int, hashes: Sequence[bytes], *, whole: bool) -> tuple[bytes, ...]:
    """SUBPROOF of RFC 6962: `whole` is true while the old tree's root is still the subtree at hand."""
    if first == len(hashes):
        return () if whole else (root(hashes),)
    split = 1 << (len(hashes) - 1).bit_length() - 1
    if first <= split:
        return (*_subproof(first, hashes[:split], whole=whole), root(hashes[split:]))
    return (*_subproof(first - split, hashes[split:], whole=False), root(hashes[:split]))


def verify_consistency(*, first: int, second: int, path: Sequence[bytes], first_root: bytes, second_root: bytes) -> bool:
    """Say whether the tree of `second` leaves only added leaves to the tree of `first` leaves.

    Source: RFC 9162, section 2.1.4.2.
    """
    if not 1 <= first <= second:
        return False
    if first == second:
        return not path and first_root == second_root
    # A complete old tree is itself the first node of the walk, and so is left out of the path.
    nodes = list(path) if first & (first - 1) else [first_root, *path]
    if not nodes:
        return False
    here, last = first - 1, second - 1
    while here & 1:
        here, last = here >> 1, last >> 1
    old = new = nodes[0]
    for node in nodes[1:]:
        if last == 0:
            return False
        if here & 1 or here == last:
            old, new = node_hash(node, old), node_hash(node, new)
            while not here & 1 and here:
                here, last = here >> 1, last >> 1
        else:
            new = node_hash(new, node)
        here, last = here >> 1, last >> 1
    return last == 0 and old == first_root and new == second_root


@dataclass(frozen=True)
class Appended:
    """A log one leaf longer."""

    peaks: tuple[bytes, ...]
    """Roots of the complete subtrees, largest first: all that the next append needs."""

    size: int
    root: bytes
    path: tuple[bytes, ...]
    """The audit path of the new leaf in this tree."""


def append(peaks: Sequence[bytes], size: int, leaf: bytes) -> Appended:
    """Add one leaf to a log known only by its peaks, in O(log n).

    The last leaf's neighbours on the way up are exactly the old peaks, from the smallest to the largest.

    Args:
        peaks: one for each set bit of `size`, largest subtree first.
        size: leaves before.
        leaf: the new leaf's bytes, which are hashed here; every other function takes leaf hashes.

    Raises:
        ValueError: there is not one peak for each set bit of `size`.
    """
    if size < 0 or len(peaks) != size.bit_count():
        raise ValueError(f"{len(peaks)} peaks do not belong to a log of {size} leaves")
    path = tuple(reversed(peaks))
    top = hashed = leaf_hash(leaf)
    for peak in path:
        top = node_hash(peak, top)
    merged, kept, bits = hashed, list(peaks), size
    while bits & 1:
        merged, bits = node_hash(kept.pop(), merged), bits >> 1
    return Appended(peaks=(*kept, merged), size=size + 1, root=top, path=path)


@dataclass(frozen=True)
class Commitment:
    """A set of samples, named without naming any of them."""

    count: int
    root: str
    """Merkle root (hex) over the sorted leaf values."""


@dataclass(frozen=True)
class Receipt:
    """Proof for one person that their sample was in the set; it says nothing about anyone else."""

    salt: str
    """Hex, 32 bytes."""

    index: int
    path: tuple[str, ...]
    """Hex, from the leaf upwards."""


def salt_of(seed: bytes, sample_id: str) -> bytes:
    """Give a sample's salt, HMAC-SHA256(seed, sample_id): independent of every other sample's for whoever lacks the seed."""
    return hmac.digest(seed, sample_id.encode("utf-8"), "sha256")


def value_of(salt: bytes, sample_id: str) -> bytes:
    """Give a sample's leaf value, HMAC-SHA256(salt, sample_id): without the salt an id cannot be tried."""
    return hmac.digest(salt, sample_id.encode("utf-8"), "sha256")


def values_of(seed: bytes, sample_ids: Iterable[str]) -> list[bytes]:
    """Give the leaf values of one request's samples; a job's set is the union of its requests' values."""
    return [value_of(salt_of(seed, sample_id), sample_id) for sample_id in sample_ids]


def commit(values: Iterable[bytes]) -> Commitment:
    """Commit to leaf values in sorted order, so that the order of the request tells nothing.

    Raises:
        ValueError: a value comes twice, which would count one sample as two.
    """
    tree, ordered = _sorted_tree(values)
    return Commitment(count=len(ordered), root=(tree[-1][0] if ordered else EMPTY).hex())


def receipts(seed: bytes, sample_ids: Sequence[str], values: Iterable[bytes]) -> dict[str, Receipt]:
    """Give the receipts of some samples of a committed set, building its tree once.

    Args:
        seed: the seed of the request that these samples belong to.
        values: all the leaf values of the set, of every request in it.

    Raises:
        KeyError: a sample is not in the set.
    """
    tree, ordered = _sorted_tree(values)
    place = {value: index for index, value in enumerate(ordered)}
    found = {}
    for sample_id in sample_ids:
        salt = salt_of(seed, sample_id)
        index = place[value_of(salt, sample_id)]
        found[sample_id] = Receipt(salt=salt.hex(), index=index, path=tuple(step.hex() for step in path_in(tree, index)))
    return found


def receipt(seed: bytes, sample_id: str, values: Iterable[bytes]) -> Receipt:
    """Give one sample's receipt.

    Raises:
        KeyError: the sample is not in the set.
    """
    return receipts(seed, [sample_id], values)[sample_id]


def verify_receipt(sample_id: str, receipt: Receipt, *, root: str, count: int) -> bool:
    """Say whether a receipt proves that `sample_id` is in the set that a certificate commits to."""
    try:
        salt, top, path = bytes.fromhex(receipt.salt), bytes.fromhex(root), [bytes.fromhex(step) for step in receipt.path]
    except ValueError:
        return False
    leaf = leaf_hash(value_of(salt, sample_id))
    return verify_inclusion(leaf, index=receipt.index, size=count, path=path, root=top)


def _sorted_tree(values: Iterable[bytes]) -> tuple[list[list[bytes]], list[bytes]]:
    ordered = sorted(values)
    if len(set(ordered)) != len(ordered):
        raise ValueError("a sample is committed twice")
    return levels([leaf_hash(value) for value in ordered]), ordered
