"""A peak of memory is what a computation needed, however much was needed before."""

from __future__ import annotations

import torch

from benchmarks.machine import peak_of

MIB = 1 << 20


def test_the_peak_is_what_was_held_at_once_and_not_what_went_before() -> None:
    first = peak_of(lambda: torch.ones(64 * MIB, dtype=torch.uint8))
    second = peak_of(lambda: [torch.ones(16 * MIB, dtype=torch.uint8) for _ in range(2)])
    third = peak_of(lambda: torch.ones(4 * MIB, dtype=torch.uint8))

    assert 60 * MIB < first < 80 * MIB
    assert 28 * MIB < second < 48 * MIB
    assert third < 16 * MIB
