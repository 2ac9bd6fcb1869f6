"""Samples, utility counts and guarantees: the small frozen values, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm

from models.audit.utility import SMALLEST, accuracy, utility, wilson
from models.data import Samples
from models.guarantee import Measured, Power, Proved


def samples(n: int = 4) -> Samples:
    return Samples(torch.arange(n * 3, dtype=torch.float32).view(n, 3), torch.arange(n), tuple(f"s{i}" for i in range(n)))


def test_rows_are_selected_by_mask_by_number_and_by_absence() -> None:
    rows = samples()

    assert rows.select(torch.tensor([True, False, True, False])).ids == ("s0", "s2")
    assert rows.select([3, 1]).ids == ("s3", "s1")
    assert rows.select([3, 1]).labels.tolist() == [3, 1]
    assert rows.without({"s1", "stranger"}).ids == ("s0", "s2", "s3")
    assert len(rows.select([])) == 0
    with pytest.raises(ValueError, match="mask over 4 rows"):
        rows.select([True, False])


def test_rows_that_do_not_belong_together_are_refused() -> None:
    labels = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="inputs are"):
        Samples(torch.zeros(2, 3, dtype=torch.float64), labels, ("a", "b"))
    with pytest.raises(ValueError, match="inputs are"):
        Samples(torch.zeros(2, 8, 8, dtype=torch.uint8), labels, ("a", "b"))
    with pytest.raises(ValueError, match="labels are"):
        Samples(torch.zeros(2, 3), labels.int(), ("a", "b"))
    with pytest.raises(ValueError, match="not the same rows"):
        Samples(torch.zeros(2, 3), labels, ("a",))
    with pytest.raises(ValueError, match="negative"):
        Samples(torch.zeros(2, 3), labels - 1, ("a", "b"))
    with pytest.raises(ValueError, match="twice"):
        Samples(torch.zeros(2, 3), labels, ("a", "a"))


def answers(per_class: list[int], wrong: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.cat([torch.full((n,), label, dtype=torch.int64) for label, n in enumerate(per_class)])
    logits = torch.nn.functional.one_hot(labels, len(per_class)).double()
    logits[:wrong] = logits[:wrong].roll(1, dims=1)
    return logits, labels


def test_counts_are_counted_by_class() -> None:
    found = utility(*answers([30, 40, 50], wrong=7))

    assert found.overall is not None and (found.overall.correct, found.overall.n) == (113, 120)
    assert [(cell.correct, cell.n) for cell in found.by_class if cell] == [(23, 30), (40, 40), (50, 50)]
    assert found.overall.value == pytest.approx(113 / 120)


@pytest.mark.parametrize(
    ("per_class", "shown"),
    [
        ([30, 40, 50], [True, True, True]),
        ([19, 40, 50], [False, False, True]),  # the total less the others would show the 19
        ([10, 10, 50], [False, False, True]),  # 20 together
        ([0, 40, 50], [False, True, True]),
        ([1, 20, 0], [False, False, False]),
    ],
)
def test_few_people_are_shown_neither_directly_nor_by_subtraction(per_class: list[int], shown: list[bool]) -> None:
    found = utility(*answers(per_class))

    assert [cell is not None for cell in found.by_class] == shown
    hidden = sum(n for n, cell in zip(per_class, found.by_class, strict=True) if cell is None)
    assert hidden == 0 or hidden >= SMALLEST


def test_a_small_split_is_withheld_as_a_whole() -> None:
    assert accuracy(*answers([19])) is None
    assert accuracy(*answers([20])) is not None
    assert utility(*answers([10, 9])).overall is None


def test_the_interval_is_wilsons() -> None:
    """The ends are the proportions whose score test just does not refuse the count."""
    for correct, n in ((0, 20), (1, 25), (50, 100), (397, 400), (20, 20)):
        low, high = wilson(correct, n)

        for end in (low, high):
            if 0 < end < 1:
                assert abs(correct / n - end) / np.sqrt(end * (1 - end) / n) == pytest.approx(norm.ppf(0.975))
        assert 0 <= low <= correct / n <= high <= 1


def test_a_proof_needs_a_theorem_and_an_audits_answer_needs_power() -> None:
    found = {"audit": "membership", "access": "weights", "metric": "AUC", "value": 0.5, "ci95": (0.4, 0.6), "n": 100}

    Measured(**found)  # type: ignore[arg-type]
    Measured(**found, threshold=0.55, passed=True, power=Power(planted=10, caught=9))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="theorem"):
        Proved(name="mu", value={"mu": "0"}, theorem="", assumptions=())
    with pytest.raises(ValueError, match="planted leak"):
        Measured(**found, threshold=0.55, passed=True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="planted leak"):
        Measured(**found, threshold=0.55, passed=True, power=Power(planted=10, caught=0))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="come together"):
        Measured(**found, passed=True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cannot have been caught"):
        Power(planted=1, caught=2)
    assert not issubclass(Measured, Proved) and not issubclass(Proved, Measured)
