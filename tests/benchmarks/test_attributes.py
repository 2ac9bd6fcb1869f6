"""Tasks with an attribute: encoded by the rows learnt from, judged on others, and summed up as the goals say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from benchmarks.attributes import TASKS, columns, rows_of
from benchmarks.erase import AGAIN, LAST, METHODS, QUANTIZED, STRONG, VANILLA, outcome_of
from benchmarks.outcome import show


def test_features_are_scaled_and_encoded_by_the_first_table_alone() -> None:
    learnt = pa.table({"age": [1.0, 3.0] * 25, "job": ["a", "b"] * 20 + ["c"] * 10})
    held = pa.table({"age": [5.0, None], "job": ["b", "unheard of"]})

    first, second = columns((learnt, held), ("age",), ("job",))

    assert first.shape == (50, 3)  # age, a, b; c is too rare
    assert first[:2].tolist() == [[-1.0, 1.0, 0.0], [1.0, 0.0, 1.0]]
    assert second.tolist() == [[3.0, 0.0, 1.0], [-2.0, 0.0, 0.0]]


def test_values_that_have_no_name_are_others_or_missing() -> None:
    inputs = torch.zeros(3, 1)

    grouped, missing = (rows_of(inputs, [0, 1, 0], ["x", "y", "z"], names, "r") for names in (("x", "other"), ("x", "y")))

    assert grouped.values.tolist() == [0, 1, 1]
    assert missing.values.tolist() == [0, 1, -1]


OF_RUN = {"information": {"core": 0.1, "audit": 0.0}, "where": "a Z80, load 1"}


def figures(leakage: float, usual: float, balanced: float, own: float | None) -> dict[str, Any]:
    return {"leakage": leakage, "upper": leakage + 0.01, "best": "mlp", "n": 900, "probes": {}, "entropy": 0.69, "usual": usual,
            "balanced": balanced, "own": own, "seconds": 2.0}  # fmt: skip


def test_goals_compare_means_over_seeds_with_the_vanilla_network() -> None:
    one = {name: figures(0.02, 0.85, 0.6, 0.02) for name in METHODS} | OF_RUN
    first = one | {VANILLA: figures(0.5, 0.86, 0.5, None), STRONG: figures(0.04, 0.8425, 0.6, 0.001)}
    second = one | {
        VANILLA: figures(0.3, 0.86, 0.5, None),
        STRONG: figures(0.02, 0.86, 0.6, 0.001),
        QUANTIZED: figures(0.05, 0.8, 0.6, 0.01),
    }

    outcome = outcome_of({"adult-sex": {"0": first, "1": second}, "biased-mnist-.99": {"0": first}}, None)

    reached = {goal.what: (goal.reached, goal.met) for goal in outcome.goals}
    assert reached["adult-sex: IRENE, strong: share of V-information removed"] == ("92.5 %", True)
    assert reached["adult-sex: points of accuracy that it costs"] == ("0.87", True)
    assert reached[f"biased-mnist-.99: points of unbiased accuracy gained, {AGAIN}, seeds 0"] == ("10.0", True)
    assert reached["quantised: measured above computed information, bits, worst"] == ("0.058", False)
    assert "0.400 +- 0.141" in show(outcome) and LAST in show(outcome)
    assert show(outcome).count("Measured on: a Z80, load 1.") == 2


def test_a_method_that_a_seed_lacks_says_which_seeds_it_has_and_goals_are_of_those_alone() -> None:
    whole = {name: figures(0.02, 0.85, 0.6, 0.02) for name in METHODS} | {VANILLA: figures(0.5, 0.86, 0.5, None)}
    begun = {VANILLA: figures(0.7, 0.86, 0.5, None)}

    outcome = outcome_of({name: {"0": begun | OF_RUN, "2": whole | OF_RUN} for name in ("compas", "biased-mnist-.99")}, None)

    reached = {goal.what: goal.reached for goal in outcome.goals}
    assert reached["compas: IRENE, strong: share of V-information removed"] == "96.0 %"
    assert reached[f"biased-mnist-.99: share of V-information removed, {AGAIN}, seeds 2"] == "96.0 %"
    assert f"{STRONG} (seed 2)" in show(outcome) and f"{VANILLA} (" not in show(outcome) and "seeds 0, 2." in show(outcome)


def test_an_upper_limit_above_all_there_is_to_know_is_cut_there_and_says_so() -> None:
    cells = {name: figures(0.02, 0.85, 0.6, 0.02) for name in METHODS} | {STRONG: figures(0.1, 0.85, 0.6, 0.0) | {"upper": 2.5}}

    shown = show(outcome_of({"compas": {"0": cells | OF_RUN}}, None))

    assert shown.count("0.690 (cut at H(v))") == 1 and "2.5" not in shown


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_every_task_reads_rows_that_are_disjoint_and_have_every_value(task: Any) -> None:
    if not Path(os.environ.get("EXPUNGE_BENCH_DATA", ".")).joinpath("adult", "train.parquet").exists():
        pytest.skip("EXPUNGE_BENCH_DATA does not name a folder with the benchmark data")

    rows = task.read(0)

    assert len(rows.core.values.unique()) == len(rows.audit.values.unique()) == task.values
    assert tuple(rows.core.samples.inputs.shape[1:]) == rows.architecture.input_shape
    if rows.architecture.name != "mlp":  # different people may have the same few entries
        learnt, held = ({image.tobytes() for image in part.samples.inputs.numpy()} for part in (rows.core, rows.audit))
        assert len(learnt & held) < 0.01 * len(held)  # a plain stroke may be written twice
