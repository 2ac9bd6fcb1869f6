"""Ratios, shares and verdicts of the benchmarks, from seconds made up by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import accuracy, forget, forget_tables, latency, outcome, removals
from benchmarks.clock import Contender, Timing, in_turns
from models.linear.core import plain_core
from models.linear.solve import solve
from models.linear.statistics import Rows, add, zeros
from models.nets import Architecture

PHASES = {"loading": 0.1, "forgetting": 0.2, "measuring": 0.1, "writing": 0.1, "erasing rows": 0.3}
STEP = {"phases": PHASES, "shredding": 0.05, "blocks": 2}


def cell(n: int, k: int, ours: float, raw: float) -> dict[str, Any]:
    spent = {"forget": [9.0, ours, 0.0], "subtract": [0.1], "solve": [0.3], "lapack": [0.2], "refit_cached": [2 * ours]}
    return {"n": n, "k": k, "used": 5, "equal": True, "seconds": spent | {"refit_raw": [raw], "fine_tune": [1.0]}, "job": [STEP]}


def form(ours: float, raw: float) -> dict[str, Any]:
    alone = {"n": 100, "k": 10} | {method: {"seconds": 1.0, "peak": 2_000_000} for method in forget_tables.METHODS}
    spent = {100: (0.4, 1.0), 1000: (ours, raw)}
    growth = {"100": [0.4], "1000": [9.0, ours, 0.0]}
    cells = [cell(n, k, *spent[n]) for n in spent for k in (1, 10)]
    return {
        "d": 5, "ridge": 1.0, "where": "here", "form": {"taps": None, "hidden": None}, "accuracy": {"core": 0.5, "user": 0.75},
        "alone": [alone],
        "cells": cells, "growth": growth, "floor": {"seconds": 0.1}, "two": {"refit_raw": 1.0, "fine_tune": 1.0},
    }  # fmt: skip


@pytest.mark.parametrize(("ours", "raw", "met"), [(0.44, 440.0, [True, True, True]), (0.5, 499.0, [False, False, True])])
def test_ratios_are_of_medians_and_goals_follow_from_them(ours: float, raw: float, met: list[bool]) -> None:
    numbers = {"product_flops": 1e9, "forms": {"default": form(ours, raw)}}

    found = forget_tables.outcome_of("forget", numbers, (100, 1000), (1, 10))

    assert forget_tables.ratio(numbers["forms"]["default"], "refit_raw", 1000, 10) == pytest.approx(raw / ours)  # type: ignore[index]
    assert forget_tables.growth(numbers["forms"]["default"], (100, 1000)) == pytest.approx(ours / 0.4)  # type: ignore[index]
    assert forget_tables.against_lapack(numbers["forms"]["default"], 1000, 10) == pytest.approx(1.5)  # type: ignore[index]
    assert [goal.met for goal in found.goals] == [*met, True]


def test_the_gap_to_fine_tuning_is_a_mean_in_points() -> None:
    seeds = [{"accuracy": {"fine_tune": 0.90, "exact": 0.88}}, {"accuracy": {"fine_tune": 0.90, "exact": 0.91}}]

    short = accuracy.gap(seeds)

    assert short == pytest.approx(0.5)


def test_the_floor_counts_flops_and_bytes() -> None:
    least = forget.floor(300, 10, 0, flops_rate=1e6, bytes_rate=1e3)

    assert least["flops"] == pytest.approx(9e6 + 1.8e6)
    assert least["bytes"] == 32 * 300**2
    assert least["seconds"] == pytest.approx(10.8 + 2880.0)


def test_bare_lapack_solves_the_system_that_the_product_solves() -> None:
    core = plain_core(Architecture(name="linear", input_shape=(4,), classes=2), range=1.0, ridge=2.0)
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.integers(-4000, 4000, (30, 5)).astype(np.int16))
    features[:, 1] = 0
    sums = add(zeros(5, 2), Rows(features, torch.from_numpy(rng.integers(-4000, 4000, (30, 2)).astype(np.int16))))
    weights = solve(sums, feature_scale=core.feature_scale, target_scale=core.target_scale, ridge=core.ridge).numpy()

    system, right = forget.ready_system(core, sums)
    found = right.copy(order="F")
    forget.bare_lapack((system.copy(order="F"), found))

    assert system.shape == (4, 4)
    np.testing.assert_allclose(found, weights[[0, 2, 3, 4]], rtol=1e-12)
    np.testing.assert_allclose(system @ found, right, rtol=1e-9, atol=1e-12)


def test_different_hashes_end_the_benchmark() -> None:
    with pytest.raises(forget.HashesDiffer):
        forget.require_equal(("a", "b"), ("a", "c"), n=1, k=1)


def test_a_stream_is_compared_by_its_sums() -> None:
    numbers = {
        "rows": 3, "d": 5, "used": 4, "ridge": 1.0, "checked": 2, "accuracy_before": 0.9, "accuracy_after": 0.9,
        "removing": [1.0, 1.0, 4.0], "lapack": [1.0, 1.0, 1.0], "parts": {"subtract": 0.1, "solve": 0.9},
    }  # fmt: skip

    found = removals.outcome_of(numbers)

    assert found.tables[0].rows[0][3] == "2x"
    assert found.goals[0].met


def test_shares_of_latency_are_of_its_median() -> None:
    parts = {"post": 0.1, "claim": 0.1, "publish": 0.1, "notice": 0.1, "download": 0.1}
    requests = [{"total": total, "known": total, "job: forgetting": 0.5, **parts} for total in (0.9, 1.0, 1.5)]

    found = latency.outcome_of(requests, {})

    shares = {row[0]: row[2] for row in found.tables[0].rows}
    assert shares["job: forgetting"] == "50 %"
    assert not found.goals[0].met
    assert latency.percentile([1.0, 2.0, 3.0], 50) == 2.0
    assert latency.percentile([float(i) for i in range(101)], 95) == pytest.approx(95.0)


def test_preparation_and_warm_up_are_outside_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def take(seconds: float) -> float:
        clock[0] += seconds
        return seconds

    found = in_turns({"a": Contender(take, prepare=lambda: take(2.0)), "b": Contender(lambda _: take(3.0))}, repeats=3, warm_up=2)

    assert found == {"a": Timing((2.0, 2.0, 2.0)), "b": Timing((3.0, 3.0, 3.0))}
    assert clock[0] == 5 * 7.0


def test_results_are_kept_as_json_and_markdown(tmp_path: Path) -> None:
    table = outcome.Table("Speed", ("what", "time"), (("it", "1 s"),), "A note.")
    goal = outcome.Goal("quick", "< 1 s", "1 s", False)
    machine = {"cpu": "x", "cores": 2, "memory_gib": 1, "python": "3", "packages": {"torch": "2"}, "blas": ["y"], "load_at_start": 0.1}

    outcome.save(outcome.Outcome("speed", "How quick", (table,), (goal,), {"cells": {"a": 1}}), machine, tmp_path)

    text = (tmp_path / "speed.md").read_text()
    assert "| it   | 1 s  |" in text and "**missed**" in text and "A note." in text
    assert json.loads((tmp_path / "speed.json").read_text())["machine"] == machine
    assert outcome.earlier_numbers("speed", tmp_path) == {"cells": {"a": 1}}
    assert outcome.earlier_numbers("other", tmp_path) == {}
