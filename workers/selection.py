"""What a job must forget: requests resolved to samples, and one disposition a sample."""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class Asked:
    """One request, as its caller wrote it."""

    id: str
    kind: str
    ids: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    where: Mapping[str, Any] | None = None
    seed: bytes = b""
    guarantee: Mapping[str, float] | None = None
    """What it wishes for: epsilon and delta, or nats."""
    most_passes: int | None = None
    audits: tuple[str, ...] = ()
    """What is to be measured beside the proof."""


@dataclass(frozen=True)
class Memory:
    """Tombstones: keyed hashes of what a model forgot before."""

    secret: bytes
    model_id: str
    tags: frozenset[str] = frozenset()

    def tag(self, what: str, name: str) -> str:
        return hmac.digest(self.secret, f"{self.model_id}|{what}|{name}".encode(), "sha256").hex()

    def forgot(self, what: str, name: str) -> bool:
        return self.tag(what, name) in self.tags


@dataclass
class Selection:
    """The union of what the requests of one job select."""

    user: set[str] = field(default_factory=set)
    core: set[str] = field(default_factory=set)
    audit: set[str] = field(default_factory=set)
    owner: dict[str, bytes] = field(default_factory=dict)
    """sample_id -> seed of the first request that selected it."""
    dispositions: dict[str, dict[str, Any]] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    """Every distinct sample (or vanished name) of all requests -> its disposition; two requests never differ about one."""
    chosen: dict[str, set[str]] = field(default_factory=dict)
    """request id -> the samples that it forgets."""

    @property
    def gone(self) -> set[str]:
        return self.user | self.core | self.audit


def select(requests: Iterable[Asked], *, index: pa.Table, held: Mapping[str, str], memory: Memory, core_too: bool) -> Selection:
    """Resolve requests against a data set's index and the rows that the model holds.

    Args:
        index: sample_id, subject_id, role, label, attr_* of the data set.
        held: sample_id -> role, for every row that the model was made from or is audited on.
        core_too: whether the method can forget core samples.
    """
    selection = Selection()
    for request in requests:
        _resolve(request, selection, index, held, memory, core_too)
    return selection


def _resolve(request: Asked, into: Selection, index: pa.Table, held: Mapping[str, str], memory: Memory, core_too: bool) -> None:
    words: dict[str, str] = {}  # distinct sample (or vanished name) -> disposition
    chosen: set[str] = set()

    def judge(sample: str) -> str:
        role = held.get(sample)
        if role is None:
            word = "already_forgotten" if memory.forgot("sample", sample) else "not_found"
        elif role == "core" and not core_too:
            word = "core_sample"
        else:
            {"user": into.user, "core": into.core, "audit": into.audit}[role].add(sample)
            into.owner.setdefault(sample, request.seed)
            chosen.add(sample)
            word = "forgotten"
        words[f"sample|{sample}"] = word
        return word

    answer: dict[str, Any] = {}
    if request.kind == "everything":
        for sample in [s for s, role in held.items() if role == "user"]:
            judge(sample)
    if request.ids:
        answer["ids"] = [judge(sample) for sample in request.ids]
    if request.subjects:
        answer["subjects"] = [
            _subject(subject, rows, judge, words, memory)
            for subject, rows in zip(request.subjects, _rows_of(index, request.subjects), strict=True)
        ]
    if request.where:
        matched = [s for s in _where(index, request.where) if held.get(s) in ("user", "core")]
        answer["where"] = dict(Counter(judge(sample) for sample in matched))
    into.dispositions[request.id] = {"counts": dict(Counter(words.values()))} | answer
    into.chosen[request.id] = chosen
    into.words |= words


def _subject(subject: str, rows: list[str], judge: Any, words: dict[str, str], memory: Memory) -> dict[str, int]:
    found = Counter(judge(sample) for sample in rows)
    if not found:
        word = "already_forgotten" if memory.forgot("subject", subject) else "not_found"
        words[f"subject|{subject}"] = word
        found = Counter([word])
    return dict(found)


def _rows_of(index: pa.Table, subjects: tuple[str, ...]) -> list[list[str]]:
    """The samples of each subject, in the order of `subjects`."""
    rows = index.filter(pc.is_in(index["subject_id"], value_set=pa.array(set(subjects), pa.string())))
    by_subject: dict[str, list[str]] = {}
    for sample, subject in zip(rows["sample_id"].to_pylist(), rows["subject_id"].to_pylist(), strict=True):
        by_subject.setdefault(subject, []).append(sample)
    return [by_subject.get(subject, []) for subject in subjects]


def _where(index: pa.Table, where: Mapping[str, Any]) -> list[str]:
    """The samples whose label and attributes equal all that is asked. A value that a column cannot hold equals none of its values."""
    wanted = {f"attr_{name}": value for name, value in where.get("attributes", {}).items()}
    if where.get("label") is not None:
        wanted["label"] = where["label"]
    for column, value in wanted.items():
        scalar = _held(value, index.schema.field(column).type)
        if scalar is None:
            return []
        index = index.filter(pc.equal(index[column], scalar))
    return list(index["sample_id"].to_pylist())


def _held(value: str | int | float | bool, kind: Any) -> Any:
    """The value as a column of this type holds it; None where it cannot. Arrow would cut 21.5 to 21: rows that nobody named would go."""
    fits = (
        isinstance(value, bool)
        if pa.types.is_boolean(kind)
        else isinstance(value, str)
        if pa.types.is_string(kind) or pa.types.is_large_string(kind)
        else not isinstance(value, str | bool) and (pa.types.is_floating(kind) or isinstance(value, int) or value.is_integer())
    )
    try:
        return pa.scalar(int(value) if pa.types.is_integer(kind) else value, kind) if fits else None
    except (pa.ArrowInvalid, OverflowError):  # too large for the column
        return None


def subjects_emptied(index: pa.Table, gone: set[str]) -> list[str]:
    """Subjects whose every row goes: asked for again, they are answered `already_forgotten`."""
    rows = index.filter(pc.is_valid(index["subject_id"]))
    going = pc.is_in(rows["sample_id"], value_set=pa.array(list(gone), pa.string()))
    leaving = set(rows.filter(going)["subject_id"].to_pylist())
    staying = set(rows.filter(pc.invert(going))["subject_id"].to_pylist())
    return sorted(leaving - staying)
