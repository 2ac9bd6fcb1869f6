"""The states of jobs, requests and samples, in one place: lower-case text, checked by the database."""

from __future__ import annotations

from typing import Final, Literal, get_args

JobState = Literal["queued", "running", "done", "refused", "failed", "cancelled"]
JobKind = Literal["validate", "fit", "forget", "erase", "audit", "block"]
Queue = Literal["cpu", "gpu"]
RequestKind = Literal["samples", "everything", "attribute"]
RequestState = Literal["received", "in_progress", "fulfilled", "partial", "refused", "cancelled", "failed"]
Disposition = Literal["forgotten", "not_found", "already_forgotten", "core_sample", "refused", "failed"]
DatasetState = Literal["validating", "ready", "failed"]
ModelState = Literal["awaiting_core", "fitting", "ready", "failed"]
VersionState = Literal["certified", "withdrawn"]

FINAL_JOB: Final = frozenset({"done", "refused", "failed", "cancelled"})
FINAL_REQUEST: Final = frozenset({"fulfilled", "partial", "refused", "cancelled", "failed"})


def one_of(column: str, states: object) -> str:
    """The text of a CHECK constraint that keeps `column` within a Literal's members."""
    return f"{column} IN ({', '.join(repr(s) for s in get_args(states))})"
