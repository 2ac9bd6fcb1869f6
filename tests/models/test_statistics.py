"""Sums over integer rows are exact, free of order, and subtract without a trace."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from models.linear.statistics import LARGEST, Rows, Statistics, add, curvature, digest, gram, merge, subtract, zeros


def rows_of(n: int, d: int = 7, classes: int = 3, seed: int = 0) -> Rows:
    draw = np.random.default_rng(seed)
    values = draw.integers(-LARGEST, LARGEST + 1, (n, d + classes)).astype(np.int16)
    return Rows(torch.from_numpy(values[:, :d]), torch.from_numpy(values[:, d:]))


def part(rows: Rows, start: int, end: int) -> Rows:
    return Rows(rows.features[start:end], rows.targets[start:end])


def brute_force(rows: Rows) -> tuple[list[list[int]], list[list[int]]]:
    """The sums in Python's own integers, which have no width."""
    q, r = rows.features.tolist(), rows.targets.tolist()
    d, classes = rows.features.shape[1], rows.targets.shape[1]
    A = [[sum(row[i] * row[j] for row in q) for j in range(d)] for i in range(d)]
    B = [[sum(row[i] * out[c] for row, out in zip(q, r, strict=True)) for c in range(classes)] for i in range(d)]
    return A, B


def in_float32(rows: Rows) -> torch.Tensor:
    """The wrong variant: the same product accumulated in float32."""
    q = rows.features.float()
    return (q.T @ q).round().to(torch.int64)


@pytest.mark.parametrize("n", [0, 1, 2, 300])
def test_the_sums_are_those_of_python_integers(n: int) -> None:
    rows = rows_of(n)

    sums = gram(rows)

    A, B = brute_force(rows)
    assert sums.A.tolist() == A
    assert sums.B.tolist() == B
    assert sums.rows == n


@pytest.mark.parametrize("sign", [1, -1])
def test_rows_of_nothing_but_extremes_sum_exactly_over_several_blocks(sign: int) -> None:
    n = 5003
    features = torch.full((n, 3), LARGEST, dtype=torch.int16)
    features[:, 1] *= sign
    targets = torch.full((n, 2), -LARGEST, dtype=torch.int16)

    sums = gram(Rows(features, targets))

    square = n * LARGEST * LARGEST
    assert sums.A.tolist() == [[square, sign * square, square], [sign * square, square, sign * square], [square, sign * square, square]]
    assert sums.B.tolist() == [[-square] * 2, [-sign * square] * 2, [-square] * 2]


def test_accumulating_in_float32_instead_is_caught() -> None:
    rows = rows_of(300)

    wrong = in_float32(rows)

    assert not torch.equal(wrong, gram(rows).A)
    assert not torch.equal(in_float32(rows) - in_float32(part(rows, 0, 150)), gram(part(rows, 150, 300)).A)


def test_sums_pass_through_int64_before_float64_would_have_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(1000)
    monkeypatch.setattr("models.linear.statistics.FEW", 0)
    monkeypatch.setattr("models.linear.statistics.STRIP", 2)
    monkeypatch.setattr("models.linear.statistics.EXACT_ROWS", 300)
    monkeypatch.setattr("models.linear.statistics.BLOCK", 7)

    sums = gram(rows)

    assert sums.A.tolist() == brute_force(rows)[0]


@pytest.mark.parametrize("gone", [1, 2, 100, 300])
def test_subtracting_rows_leaves_the_bits_of_sums_that_never_had_them(gone: int) -> None:
    rows = rows_of(300)
    whole, kept = gram(rows), gram(part(rows, gone, 300))

    after = subtract(whole, part(rows, 0, gone))

    assert digest(whole) != digest(kept)
    assert digest(after) == digest(kept)
    assert after.rows == 300 - gone


def test_rows_added_again_give_the_sums_from_before() -> None:
    rows = rows_of(50)
    whole = gram(rows)

    for count in (1, 20):
        again = add(subtract(whole, part(rows, 0, count)), part(rows, 0, count))

        assert digest(again) == digest(whole)
        assert again.rows == whole.rows


def test_shards_merge_to_the_same_bits_in_any_order() -> None:
    rows = rows_of(90)
    shards = [gram(part(rows, start, start + 30)) for start in (0, 30, 60)]

    forward = merge(merge(shards[0], shards[1]), shards[2])
    backward = merge(shards[2], merge(shards[1], shards[0]))

    assert digest(forward) == digest(backward) == digest(gram(rows))


def test_the_original_sums_are_untouched_by_adding_and_subtracting() -> None:
    rows = rows_of(20)
    whole = gram(rows)
    before = digest(whole)

    add(whole, rows)
    subtract(whole, part(rows, 0, 1))
    subtract(whole, part(rows, 0, 5))

    assert digest(whole) == before


@pytest.mark.parametrize("gone", [1, 5])
def test_the_caller_may_give_the_memory_away(gone: int) -> None:
    rows = rows_of(20)
    whole, expected = gram(rows), subtract(gram(rows), part(rows, 0, gone))

    with pytest.raises(ValueError, match="cannot be taken"):
        subtract(whole, rows_of(21), overwrite=True)
    untouched = digest(whole)
    after = subtract(whole, part(rows, 0, gone), overwrite=True)

    assert untouched == digest(gram(rows))
    assert digest(after) == digest(expected)
    assert after.A.data_ptr() == whole.A.data_ptr()


def test_core_rows_enter_the_curvature_and_nothing_else() -> None:
    rows = rows_of(20)

    sums = curvature(rows.features, 3)

    assert torch.equal(sums.A, gram(rows).A)
    assert not bool(sums.B.any())
    assert sums.rows == 0


def test_the_digest_is_that_of_the_documented_bytes() -> None:
    sums = gram(rows_of(5))

    found = digest(sums)

    layout = sums.A.numpy().astype("<i8").tobytes() + sums.B.numpy().astype("<i8").tobytes()
    assert found == hashlib.sha256(layout).hexdigest()
    assert digest(Statistics(sums.A.T, sums.B, 5)) == found  # a transposed view has the same values, and A is symmetric


def test_rows_that_do_not_fit_the_sums_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        add(zeros(7, 3), rows_of(2, d=8))
    with pytest.raises(ValueError, match="cannot be taken from"):
        subtract(zeros(7, 3), rows_of(1))
    with pytest.raises(ValueError, match="int16"):
        Rows(torch.zeros(2, 3), torch.zeros(2, 1, dtype=torch.int16))
    with pytest.raises(ValueError, match="not the same rows"):
        Rows(torch.zeros(2, 3, dtype=torch.int16), torch.zeros(1, 1, dtype=torch.int16))
