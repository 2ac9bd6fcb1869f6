"""What was forgotten is nowhere afterwards: due shreds are carried out, requests end when theirs are done, orphans are swept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

import rfc8785
from sqlalchemy import Text, bindparam, cast, literal, select, union_all
from sqlalchemy.orm import Session

from service import ids, locks, log, pictures, requests
from service.db import moment
from service.home import Home
from service.jobs import Claim
from service.tables import Dataset, DatasetBlock, Job, Model, ModelBlock, Request, Shred, Version

_SEVERAL = 500
"""Blobs a query."""


def schedule(session: Session, blobs: Iterable[str], *, job_id: str | None, what: str, due_at: datetime) -> None:
    named = list(dict.fromkeys(blobs))
    known = {shred.blob: shred for shred in _known(session, named)}
    for blob in named:
        shred = known.get(blob)
        if shred is None:
            session.add(Shred(blob=blob, job_id=job_id, what=what, due_at=due_at))
        elif shred.done_at is None and due_at < shred.due_at:
            shred.due_at = due_at


def _known(session: Session, blobs: list[str], *, keep: bool = False) -> Iterator[Shred]:
    """What is known of these blobs: of a thousand requests in a few questions.

    Args:
        keep: as it is until the transaction ends.
    """
    for start in range(0, len(blobs), _SEVERAL):
        yield from session.scalars(_KNOWN_KEPT if keep else _KNOWN, {"blobs": blobs[start : start + _SEVERAL]})


_KNOWN = select(Shred).where(Shred.blob.in_(bindparam("blobs", expanding=True)))
_KNOWN_KEPT = _KNOWN.with_for_update()
_LATE = (
    select(Shred.blob, Shred.job_id, Shred.what)
    .where(Shred.done_at.is_(None), Shred.due_at <= bindparam("now"))
    .order_by(Shred.due_at, Shred.blob)
)


def carry_out(home: Home) -> int:
    """Destroy every blob that is due, log each, and end the requests that waited for it. Returns how many were destroyed.

    A crash at any point is harmless: shredding what is already gone succeeds, and the row is marked in the log's transaction.
    """
    with home.erasing:
        with home.db.read() as session:
            due = session.connection().execute(_LATE, {"now": moment(session)}).all()
        if any(shred.what == pictures.FORGOTTEN for shred in due):
            with home.db.write() as session:
                pictures.let_go(session, [(shred.blob, shred.job_id) for shred in due if shred.what == pictures.FORGOTTEN])
        for shred in due:
            home.vault.shred(shred.blob)
        if due:
            with home.db.write() as session:
                _record(session, [shred.blob for shred in due])
    return len(due)


def _record(session: Session, destroyed: list[str]) -> None:
    """Mark and log, once each: another process may have destroyed the same, and have said so already."""
    locks.exclusive(session, "shreds")
    instant = moment(session)
    done = [row for row in _known(session, destroyed, keep=True) if row.done_at is None]
    for row in done:
        row.done_at = instant
    log.extend(session, [rfc8785.dumps({"type": "shredded", "blob": row.blob, "what": row.what}) for row in done], instant)
    for job_id in sorted({row.job_id for row in done if row.job_id}):
        if not unfinished(session, job_id, instant):
            requests.end(session, job_id, instant)


def referenced(session: Session, prefix: str = "") -> set[str]:
    """Every blob that some record still points at, of those whose names begin so: a claim's few are not looked for among all there are."""
    escaped = prefix.replace("/", "//").replace("_", "/_").replace("%", "/%")
    found = set(session.scalars(_NAMED, {"beginning": f"{escaped}%"}))
    for what, said in session.execute(_SAID, {"within": f"%{escaped}%"}):
        found.update(_BLOBS_IN[what](said or {}))
    return {blob for blob in found if blob and blob.startswith(prefix)}


_NAMED = union_all(
    *(
        select(column).where(column.like(bindparam("beginning"), escape="/"))
        for column in (
            *(Dataset.source_blob, Dataset.index_blob, DatasetBlock.blob, Model.given_core_blob, ModelBlock.blob),
            *(Request.body_blob, Request.receipts_blob, Shred.blob),
        )
    )
)
"""Columns that hold the name of one blob."""

_SAID = union_all(
    *(
        # As text the document holds every name in it letter by letter: names of blobs are ASCII without quotes.
        select(literal(what), column).where(cast(column, Text).like(bindparam("within"), escape="/"))
        for what, column in {
            "state": Model.state_blobs,
            "files": Version.files,
            "result": Job.result,
            "checkpoint": Job.checkpoint,
            "evidence": Job.evidence,
        }.items()
    )
)
"""Documents that hold names of blobs, and which kind of document each is."""

_BLOBS_IN: dict[str, Callable[[Any], Iterable[str]]] = {
    "state": lambda said: said.values(),
    "files": lambda said: [file["blob"] for file in said.values()],
    "result": lambda said: [*(block["blob"] for block in said.get("blocks", ())), *said.get("blobs", {}).values()],
    "checkpoint": lambda said: said.get("blobs", {}).values(),
    "evidence": lambda said: [file["blob"] for file in said.values()],
}


def sweep_orphans(home: Home, *, prefix: str = "", only: Callable[[str], bool] = lambda blob: True) -> int:
    """Destroy blobs that no record points at: what a killed job or a broken upload left behind.

    Only safe for blobs that nobody can still be writing to publish them: at start, alone; or of claims that are over.

    Args:
        only: which blobs to look at.
    """
    stored = [blob for blob in home.vault.ids(prefix) if only(blob)]
    if not stored:
        return 0
    with home.db.read() as session:
        known = referenced(session, prefix)
    orphans = [b for b in stored if b not in known]
    for blob in orphans:
        home.vault.shred(blob)
    return len(orphans)


def sweep_claims(home: Home, held: Claim) -> int:
    """Sweep what this claim of a job, and the claims before it, left; their parts' too. A later claim is somebody else's, at work.

    If the end of this claim could not be written down, others may still be at work on its parts, in vain: they are cancelled with it.
    """
    prefix = f"{held.stem}-"
    return sweep_orphans(home, prefix=prefix, only=lambda blob: int(blob.removeprefix(prefix).split("-")[0]) <= held.fence)


def sweep_abandoned(home: Home, older_than: timedelta) -> int:
    """Sweep what dead processes left: uploads begun, and jobs ended, longer ago than any live one could still be at work."""
    with home.db.read() as session:
        before = moment(session) - older_than
        ended = set(session.scalars(select(Job.id).where(Job.finished_at < before)))
    return sweep_orphans(home, only=lambda blob: blob.split("-")[0] in ended or (blob.startswith("up_") and ids.made_at(blob) < before))


def unfinished(session: Session, job_id: str, by: datetime) -> bool:
    """True while something of this job is still due to be destroyed at or before `by`."""
    return (
        session.scalars(select(Shred.blob).where(Shred.job_id == job_id, Shred.done_at.is_(None), Shred.due_at <= by)).first() is not None
    )
