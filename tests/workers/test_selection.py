"""Requests resolved to samples, against a hand-written table."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from workers.selection import Asked, Memory, select, subjects_emptied

INDEX = pa.table({
    "sample_id": ["u1", "u2", "u3", "c1", "a1", "u4"],
    "subject_id": ["anna", "anna", "ben", "anna", "anna", None],
    "role": ["user", "user", "user", "core", "audit", "user"],
    "label": [0, 1, 0, 0, 0, 0],
    "attr_sex": ["f", "f", "m", "f", "f", None],
    "block": [0, 0, 0, 0, 0, 0],
})  # fmt: skip
HELD = {"u1": "user", "u2": "user", "u3": "user", "c1": "core", "a1": "audit", "u4": "user"}
SECRET = Memory(b"s", "model")


def resolve(*asked: Asked, held: dict[str, str] = HELD, memory: Memory = SECRET, core_too: bool = False) -> Any:
    return select(asked, index=INDEX, held=held, memory=memory, core_too=core_too)


def test_ids_subjects_and_where_are_united_and_each_sample_is_counted_once() -> None:
    found = resolve(Asked("r", "samples", ids=("u1", "zz"), subjects=("anna", "nobody"), where={"label": 0, "attributes": {"sex": "m"}}))

    assert (found.user, found.core, found.audit) == ({"u1", "u2", "u3"}, set(), {"a1"})
    answer = found.dispositions["r"]
    assert answer["ids"] == ["forgotten", "not_found"]
    assert answer["subjects"] == [{"forgotten": 3, "core_sample": 1}, {"not_found": 1}]
    assert answer["where"] == {"forgotten": 1}
    assert answer["counts"] == {"forgotten": 4, "not_found": 2, "core_sample": 1}


def test_where_touches_trained_rows_only_and_a_name_touches_audit_rows_too() -> None:
    by_label, by_name = resolve(Asked("r", "samples", where={"label": 0})), resolve(Asked("r", "samples", ids=("a1",)))

    assert by_label.gone == {"u1", "u3", "u4"}
    assert by_label.dispositions["r"]["where"] == {"forgotten": 3, "core_sample": 1}
    assert by_name.audit == {"a1"}


def test_core_samples_go_only_with_a_method_that_can() -> None:
    assert resolve(Asked("r", "samples", ids=("c1",))).gone == set()
    assert resolve(Asked("r", "samples", ids=("c1",)), core_too=True).core == {"c1"}


def test_everything_means_every_user_row_that_the_model_still_holds() -> None:
    found = resolve(Asked("r", "everything"), held={k: v for k, v in HELD.items() if k != "u1"})

    assert found.gone == {"u2", "u3", "u4"}


def test_tombstones_tell_forgotten_from_never_known_by_model() -> None:
    memory = Memory(b"s", "model", frozenset({SECRET.tag("sample", "old"), SECRET.tag("subject", "gone")}))
    other = Memory(b"s", "another model", memory.tags)
    asked = Asked("r", "samples", ids=("old", "new"), subjects=("gone",))

    here, there = resolve(asked, memory=memory).dispositions["r"], resolve(asked, memory=other).dispositions["r"]

    assert (here["ids"], here["subjects"]) == (["already_forgotten", "not_found"], [{"already_forgotten": 1}])
    assert there["counts"] == {"not_found": 3}


def test_two_requests_for_one_sample_are_both_answered_and_share_its_salt() -> None:
    found = resolve(Asked("r1", "samples", ids=("u1",), seed=b"1"), Asked("r2", "samples", ids=("u1", "u2"), seed=b"2"))

    assert found.dispositions["r1"]["ids"] == ["forgotten"]
    assert found.dispositions["r2"]["ids"] == ["forgotten", "forgotten"]
    assert found.owner == {"u1": b"1", "u2": b"2"}
    assert found.chosen == {"r1": {"u1"}, "r2": {"u1", "u2"}}
    assert found.words == {"sample|u1": "forgotten", "sample|u2": "forgotten"}


def test_a_subject_is_gone_only_with_its_last_row() -> None:
    assert subjects_emptied(INDEX, {"u3", "u1", "u2"}) == ["ben"]
    assert subjects_emptied(INDEX, {"u1", "u2", "c1", "a1"}) == ["anna"]
