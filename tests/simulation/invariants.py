"""What must hold: after every commit, and at the end when everything has come to rest."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from expunge import merkle
from service import erasure
from service.blobs import BlobError
from service.certificates import statement_digest
from service.states import FINAL_JOB, FINAL_REQUEST
from service.tables import Certificate, Dataset, Event, Job, LogLeaf, Model, Request, Shred, Version
from tests.simulation.computing import POISON, weights_of
from tests.simulation.world import World

INJECTED = {"worker process died", "Poison"}
"""Reasons for which a job may be charged: whatever else is charged was not injected, but is wrong in the service."""


@dataclass
class Ask:
    """One request as its client knows it."""

    reference: str
    model: str
    ids: list[str]
    method: str = "exact"
    request: str | None = None
    """Set when the service has said 202: from here on it is promised."""
    cancelled: str = "no"
    """no, tried (nobody knows), or yes."""


@dataclass
class Watcher:
    """Looks at the record after every commit, through a connection of its own."""

    record: sqlite3.Connection
    asks: list[Ask]
    jobs: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    seen: int = -1

    def __call__(self, world: World) -> None:
        changes = self.record.execute("PRAGMA data_version").fetchone()[0]
        if changes == self.seen:  # the commit wrote nothing
            return
        self.seen = changes
        running: Counter[str] = Counter()
        for job, lane, state, fence, attempt, leased, parent in self.record.execute(
            "SELECT j.id, j.lane, j.state, j.fence, j.attempt, j.lease_until IS NOT NULL, p.id || '-' || p.fence || p.state"
            " FROM jobs j LEFT JOIN jobs p ON p.id = j.parent_id"
        ):
            whose = f"{lane.rpartition('-')[0]}running"
            assert not parent or state not in ("queued", "running") or parent == whose, f"{job} is {state}, its job is {parent}"
            before = self.jobs.get(job, (state, 0, 0))
            assert fence >= before[1] and attempt >= before[2], f"fence or attempts of {job} went back"
            assert before[0] not in FINAL_JOB or state == before[0], f"{job} was {before[0]} and became {state}"
            assert (state == "running") == bool(leased), f"{job} is {state} and its lease says otherwise"
            running[lane] += state == "running"
            self.jobs[job] = (state, fence, attempt)
        assert not running or max(running.values()) <= 1, "two jobs run in one lane"
        self._versions()
        there = {row[0] for row in self.record.execute("SELECT id FROM requests")}
        for ask in self.asks:
            assert ask.request is None or ask.request in there, f"an accepted request is gone: {ask.reference}"

    def _versions(self) -> None:
        jobs, certified = Counter[str](), Counter[str]()
        for model, state, job, files, certificate in self.record.execute(
            "SELECT model_id, v.state, v.job_id, v.files, c.statement FROM versions v LEFT JOIN certificates c ON c.statement = v.statement"
        ):
            assert certificate, f"a version of {model} has no certificate"
            blob, fence = json.loads(files)["user.safetensors"]["blob"], self.jobs[job][1]
            assert blob.startswith(f"{job}-{fence}-"), f"{job} published what claim {blob.split('-')[1]} made, at fence {fence}"
            jobs[job] += 1
            certified[model] += state == "certified"
        assert not jobs or max(jobs.values()) == 1, "a job published twice"
        assert set(certified.values()) <= {1}, "a model has none or several certified versions"


def at_rest(record: sqlite3.Connection, now: str) -> bool:
    """Whether nothing is left to do."""
    open_jobs = record.execute("SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')").fetchone()[0]
    open_requests = record.execute("SELECT count(*) FROM requests WHERE state IN ('received', 'in_progress')").fetchone()[0]
    due = record.execute("SELECT count(*) FROM shreds WHERE done_at IS NULL AND due_at <= ?", (now,)).fetchone()[0]
    return not (open_jobs or open_requests or due)


def final(session: Session, world: World, asks: list[Ask], initial: dict[str, list[str]]) -> None:
    """Require of the installation at rest that nothing was lost, doubled, or released uncertified.

    Args:
        initial: the samples of each data set, by its id.
    """
    requests = _requests(session, world, asks)
    _versions(session, world)
    _charges(session)
    for dataset in session.scalars(select(Dataset)):
        left: set[str] = set()
        for model in session.scalars(select(Model).where(Model.dataset_id == dataset.id, Model.state == "ready")):
            gone = {i for ask, request in requests if request.model_id == model.id and request.state == "fulfilled" for i in ask.ids}
            held = [i for i in initial[dataset.id] if i not in gone]
            assert model.state_blobs is not None
            assert _read(world, model.state_blobs["index"]) == held, f"{model.name} does not hold what was not asked to go"
            latest = session.scalars(select(Version).where(Version.model_id == model.id, Version.state == "certified")).one()
            assert _read(world, latest.files["user.safetensors"]["blob"]) == weights_of(held), f"weights of {model.name} are not a refit's"
            left.update(held)
        assert dataset.index_blob is not None
        rows = _read(world, dataset.index_blob)
        assert rows == [i for i in initial[dataset.id] if i in left], f"{dataset.name} holds other rows than its models"
    _blobs(session, world)
    _log(session)


def _requests(session: Session, world: World, asks: list[Ask]) -> list[tuple[Ask, Request]]:
    found = []
    by_reference: defaultdict[str | None, list[Request]] = defaultdict(list)
    for request in session.scalars(select(Request)):
        by_reference[request.reference].append(request)
    by_id = {job.id: job for job in session.scalars(select(Job))}
    for ask in asks:
        rows = by_reference[ask.reference]
        assert len(rows) == 1, f"{ask.reference} was accepted {len(rows)} times"
        request = rows[0]
        job = by_id.get(request.job_id or "")
        assert job is not None and request.state in FINAL_REQUEST, f"{ask.reference} is {request.state}"
        if request.state == "cancelled":
            assert ask.cancelled != "no", f"{ask.reference} was cancelled by nobody"
        elif request.state == "failed":
            tried = [job, *(part for part in by_id.values() if part.parent_id == job.id and part.state == "failed")]
            parked = any(j.attempt >= world.settings.max_attempts or j.fence >= world.settings.max_claims for j in tried)
            assert job.state == "failed" and parked, f"{ask.reference} failed and {job.id} is {job.state} after {job.attempt} failures"
        else:
            assert request.state == "fulfilled" and job.state == "done", f"{ask.reference} is {request.state}, its job {job.state}"
            assert POISON not in ask.ids, "poison was carried out"
            assert request.dispositions is not None and set(request.dispositions["words"]) <= {"forgotten", "already_forgotten"}
        assert ask.cancelled != "yes" or request.state == "cancelled", f"{ask.reference} was cancelled and is {request.state}"
        found.append((ask, request))
    return found


def _versions(session: Session, world: World) -> None:
    logged = Counter(json.loads(leaf).get("certificate") for leaf in session.scalars(select(LogLeaf.leaf)))
    certificates = {certificate.statement: certificate for certificate in session.scalars(select(Certificate))}
    published, ended = session.scalars(select(Version).order_by(Version.number)).all(), session.scalars(select(Job)).all()
    for model in session.scalars(select(Model).where(Model.state == "ready")):
        versions = [version for version in published if version.model_id == model.id]
        done = [job for job in ended if job.model_id == model.id and job.version is not None]
        assert [v.number for v in versions] == list(range(1, len(versions) + 1)), f"versions of {model.name} are not 1 to n"
        assert {j.id: j.version for j in done} == {v.job_id: v.number for v in versions}, f"jobs and versions of {model.name} differ"
        assert [v.state for v in versions] == ["withdrawn"] * (len(versions) - 1) + ["certified"], "the newest alone is certified"
        for version in versions:
            certificate = certificates[version.statement]
            assert statement_digest(certificate.files["certificate.sigstore.json"].encode()) == version.statement
            assert logged[version.statement] == 1, "a certificate is not in the log once"


def _charges(session: Session) -> None:
    for event in session.scalars(select(Event).where(Event.kind == "retry")):
        assert event.data["why"] in INJECTED, f"a job was charged for {event.data['why']}"
    told: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for job_id, kind in session.execute(select(Event.job_id, Event.kind)):
        told[job_id][kind] += 1
    for job in session.scalars(select(Job)):
        events = told[job.id]
        assert sum(events[state] for state in FINAL_JOB) == 1, f"{job.id} ended {events}"
        assert events["claimed"] == job.fence, f"{job.id} has fence {job.fence} and was claimed {events['claimed']} times"


def _blobs(session: Session, world: World) -> None:
    """What the record points at can be read, unless it is destroyed; and what is destroyed cannot."""
    destroyed = set(session.scalars(select(Shred.blob).where(Shred.done_at.is_not(None))))
    for blob in destroyed:
        assert blob not in world.keys and blob not in world.blobs, "a destroyed blob is still there"
    for blob in erasure.referenced(session) - destroyed:
        _read(world, blob)
    gone = [blob for (blob,) in session.execute(select(Request.body_blob).where(Request.state.in_(FINAL_REQUEST))) if blob]
    assert not gone, "an ended request still points at what was asked"


def _log(session: Session) -> None:
    leaves = session.scalars(select(LogLeaf).order_by(LogLeaf.index)).all()
    assert [leaf.index for leaf in leaves] == list(range(len(leaves)))
    peaks: list[bytes] = []
    for leaf in leaves:
        peaks = list(merkle.append(peaks, leaf.index, leaf.leaf).peaks)
        assert [p.hex() for p in peaks] == leaf.peaks, f"leaf {leaf.index} of the log does not follow from those before it"
    shredded = Counter(json.loads(leaf.leaf)["blob"] for leaf in leaves if b'"shredded"' in leaf.leaf)
    assert not shredded or max(shredded.values()) == 1, "a destroyed blob is in the log twice"
    done = set(session.scalars(select(Shred.blob).where(Shred.done_at.is_not(None))))
    assert set(shredded) == done, "the log and the record name different destroyed blobs"


def _read(world: World, blob: str) -> Any:
    try:
        return json.loads(world.vault.read(blob))
    except BlobError as error:
        raise AssertionError(f"the record points at a blob that cannot be read: {error}") from error
