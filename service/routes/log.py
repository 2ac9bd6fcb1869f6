"""The transparency log, for whoever wants to check that it only grows."""

from __future__ import annotations

import base64
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from expunge import checkpoint, merkle
from expunge.checkpoint import Checkpoint
from service import log
from service.deps import OpenHome
from service.problem import Problem

router = APIRouter(tags=["log"])


@router.get("/log/checkpoint", response_class=Response)
def latest(home: OpenHome) -> Response:
    """The signed size and root of the log now (C2SP tlog-checkpoint)."""
    with home.db.read() as session:
        hashes = log.leaf_hashes(session)
    signer = home.signer
    note = checkpoint.sign(Checkpoint(log.origin(signer), len(hashes), merkle.root(hashes)), sign=signer.sign, key=signer.public)
    return Response(note, media_type="text/plain; charset=utf-8")


@router.get("/log/proof")
def proof(
    home: OpenHome,
    size: Annotated[int, Query(ge=1, le=2**53)],
    index: Annotated[int | None, Query(ge=0)] = None,
    first: Annotated[int | None, Query(ge=1)] = None,
) -> dict[str, Any]:
    """With `index`: that leaf is in the log of `size` leaves. With `first`: the log of `size` leaves begins with that of `first`."""
    if (index is None) == (first is None):
        raise Problem(422, "proof", "Ask for one proof: give `index` or `first`.")
    with home.db.read() as session:
        hashes = log.leaf_hashes(session)
    if size > len(hashes) or (index is not None and index >= size) or (first is not None and first > size):
        raise Problem(422, "proof_range", "The log is shorter than that; see /log/checkpoint.")
    path = merkle.inclusion_path(hashes[:size], index) if index is not None else merkle.consistency_path(hashes[:size], first or 1)
    return {"size": size, "root": merkle.root(hashes[:size]).hex(), "path": [base64.b64encode(step).decode() for step in path]}
