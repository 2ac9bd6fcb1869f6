"""A key is looked up once a second at most, and revoked it lets nobody in for longer than that."""

from __future__ import annotations

import time

import pytest

from service.auth import TRUSTED, Caller, Callers

CALLER = Caller("k1", frozenset({"forget:create"}))


def test_a_key_that_was_good_is_trusted_for_a_second_from_when_the_record_was_asked() -> None:
    callers = Callers()
    asked = time.monotonic()

    callers.remember("Bearer a", CALLER, asked)
    callers.remember("Bearer b", CALLER, asked - TRUSTED)

    assert TRUSTED == 1.0
    assert callers.known("Bearer a") == CALLER
    assert callers.known("Bearer b") is None
    assert callers.known("Bearer c") is None and callers.known(None) is None


def test_a_key_revoked_here_is_out_at_once_even_for_who_was_just_being_looked_up() -> None:
    callers = Callers()
    asked = time.monotonic()
    callers.remember("Bearer a", CALLER, asked)

    callers.forget(CALLER.id)
    callers.remember("Bearer a", CALLER, asked)  # the record was asked before the key was revoked

    assert callers.known("Bearer a") is None


def test_no_secret_and_no_endless_list_of_callers_is_kept() -> None:
    callers = Callers()

    for i in range(3000):
        callers.remember(f"Bearer {i}", CALLER, time.monotonic())

    kept = vars(callers)["_known"]
    assert len(kept) <= 1024
    assert not any(b"Bearer" in digest for digest in kept)


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer exp_x"])
def test_nobody_is_let_in_by_what_was_never_good(header: str | None) -> None:
    assert Callers().known(header) is None
