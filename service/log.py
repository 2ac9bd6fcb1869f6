"""The transparency log: one append-only RFC 6962 tree over every certificate and every destroyed blob."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from expunge import merkle
from service import locks
from service.certificates import Signer
from service.tables import LogLeaf


def append(session: Session, leaf: bytes, now: datetime) -> tuple[int, bytes, list[bytes]]:
    """Append one leaf in O(log n).

    Returns the tree's size with it, the root, and the leaf's inclusion path at that size.
    """
    return extend(session, [leaf], now)


def extend(session: Session, leaves: Sequence[bytes], now: datetime) -> tuple[int, bytes, list[bytes]]:
    """Append leaves, each in O(log n). Returns what `append` does, of the last one."""
    locks.exclusive(session, "log")  # one leaf after another: the next is computed from the last
    last = session.scalars(_LAST).first()
    size, peaks = (last.index + 1, [bytes.fromhex(p) for p in last.peaks]) if last else (0, [])
    root, path, added = b"", [], []
    for index, leaf in enumerate(leaves, size):
        grown = merkle.append(peaks, index, leaf)
        peaks, root, path = list(grown.peaks), grown.root, list(grown.path)
        hashed = merkle.leaf_hash(leaf).hex()
        added.append({"index": index, "leaf": leaf, "leaf_hash": hashed, "peaks": [p.hex() for p in peaks], "at": now})
    session.flush()
    if added:
        session.connection().execute(_ADD, added)
    return size + len(leaves), root, path


_ADD = insert(LogLeaf)
_LAST = select(LogLeaf).order_by(LogLeaf.index.desc()).limit(1)


def origin(signer: Signer) -> str:
    """The log's name in its checkpoints."""
    return f"expunge/{signer.fingerprint[:16]}"


def leaf_hashes(session: Session) -> list[bytes]:
    return [bytes.fromhex(h) for h in session.scalars(select(LogLeaf.leaf_hash).order_by(LogLeaf.index))]
