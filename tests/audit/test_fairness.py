"""Differences between groups, by fairlearn as the second opinion, and nothing shown of a few people."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.audit.calibration import calibration_error
from models.audit.fairness import fairness


@pytest.mark.parametrize(("seed", "values", "classes"), [(0, 2, 2), (1, 5, 2), (2, 3, 4)])
def test_the_differences_are_those_of_fairlearn(seed: int, values: int, classes: int) -> None:
    metrics = pytest.importorskip("fairlearn.metrics")
    g = np.random.default_rng(seed)
    v, y = g.integers(0, values, 2000), g.integers(0, classes, 2000)
    told = np.where(g.random(2000) < 0.3 + 0.5 * v / values, y, g.integers(0, classes, 2000))

    found = fairness(torch.from_numpy(told), torch.from_numpy(y), torch.from_numpy(v), values=values, favourable=1)

    yes, right = (told == 1).astype(int), (y == 1).astype(int)
    assert found.demographic_parity_difference == pytest.approx(metrics.demographic_parity_difference(right, yes, sensitive_features=v))
    assert found.equalised_odds_difference == pytest.approx(metrics.equalized_odds_difference(right, yes, sensitive_features=v))
    assert found.withheld == 0 and found.equalised_odds_difference > 0.01


def test_groups_of_fewer_than_twenty_are_withheld_directly_and_by_subtraction() -> None:
    labels = torch.tensor([1] * 30 + [0] * 30 + [1] * 12 + [0] * 50 + [1] * 25 + [0] * 25 + [1] * 9)
    groups = torch.tensor([0] * 60 + [1] * 62 + [2] * 50 + [3] * 9)

    found = fairness(labels, labels, groups, values=4, favourable=1)

    # All rows less the groups of 60, 62 and 50 would show the last 9, so the group of 50 goes as well; in one group 62 - 50 shows 12.
    assert [cell is not None for cell in found.selected] == [True, True, False, False]
    assert [cell is not None for cell in found.true_positive] == [True, False, True, False]  # 12 + 9 rows are withheld together
    assert [cell is not None for cell in found.false_positive] == [True, False, True, False]
    assert found.withheld == 6
    alone = fairness(labels[:60], labels[:60], groups[:60], values=4, favourable=1)
    assert alone.demographic_parity_difference is None and alone.equalised_odds_difference is None


def test_rows_without_a_value_count_in_no_group() -> None:
    labels = torch.arange(200) % 2
    groups = torch.cat([torch.arange(100) // 2 % 2, torch.full((100,), -1)])

    found = fairness(labels, labels, groups, values=2, favourable=1)

    assert sum(cell.n for cell in found.selected if cell) == 100


def test_calibration_error_is_the_distance_between_said_and_done() -> None:
    g = torch.Generator().manual_seed(0)
    share = torch.rand(200_000, generator=g) * 0.5 + 0.5
    honest = (torch.rand(200_000, generator=g) > share).long()  # label 0 as often as it is said
    logits = torch.stack([share.log(), (1 - share).log()], dim=1)

    told = calibration_error(logits, honest)
    boasting = calibration_error(torch.tensor([[9.0, 0.0]]).expand(100, 2), torch.arange(100) % 2)

    assert told is not None and told < 0.005
    assert boasting == pytest.approx(0.5, abs=1e-3)
    assert calibration_error(logits[:19], honest[:19]) is None
