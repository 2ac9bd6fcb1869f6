"""The solve gives the right weights, and the same bits in any process."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits  # type: ignore[import-untyped, unused-ignore]

from models.linear.solve import NotPositiveDefinite, digest, solve
from models.linear.statistics import LARGEST, Rows, Statistics, gram, zeros

SCALE = 2.0**-12


def sums(n: int = 400, d: int = 130, classes: int = 4, seed: int = 0) -> Statistics:
    draw = np.random.default_rng(seed)
    values = draw.integers(-9000, 9001, (n, d + classes)).astype(np.int16)
    return gram(Rows(torch.from_numpy(values[:, :d]), torch.from_numpy(values[:, d:])))


def weights(statistics: Statistics, ridge: float = 3.0) -> torch.Tensor:
    return solve(statistics, feature_scale=SCALE, target_scale=2.0**-10, ridge=ridge)


def test_the_weights_solve_the_equation() -> None:
    statistics = sums()
    A, B = statistics.A.numpy().astype(float), statistics.B.numpy().astype(float)

    found = weights(statistics).numpy()

    truth = np.linalg.solve(SCALE**2 * A + 3.0 * np.eye(len(A)), SCALE * 2.0**-10 * B)
    assert found.dtype == np.float64 and found.flags.c_contiguous
    assert np.linalg.norm(found - truth) <= 1e-12 * np.linalg.norm(truth)


@pytest.mark.parametrize("classes", [1, 2, 10])
def test_a_feature_that_is_always_zero_gets_no_weight_and_moves_no_other(classes: int) -> None:
    draw = np.random.default_rng(1)
    features = torch.from_numpy(draw.integers(-9000, 9001, (50, 9)).astype(np.int16))
    targets = torch.from_numpy(draw.integers(-9000, 9001, (50, classes)).astype(np.int16))
    holes = features.clone()
    holes[:, [0, 4, 8]] = 0
    kept = [1, 2, 3, 5, 6, 7]

    found = weights(gram(Rows(holes, targets)))

    assert torch.equal(found[[0, 4, 8]], torch.zeros(3, classes, dtype=torch.float64))
    assert not bool(torch.signbit(found[[0, 4, 8]]).any())
    assert torch.equal(found[kept], weights(gram(Rows(features[:, kept].contiguous(), targets))))


def test_no_rows_give_positive_zeros_everywhere() -> None:
    statistics = sums()

    assert digest(weights(zeros(130, 4))) == digest(torch.zeros(130, 4, dtype=torch.float64))
    assert digest(weights(Statistics(statistics.A, torch.zeros_like(statistics.B), 0))) == digest(torch.zeros(130, 4, dtype=torch.float64))
    assert digest(weights(Statistics(statistics.A, -torch.zeros_like(statistics.B), 0))) == digest(torch.zeros(130, 4, dtype=torch.float64))


def test_the_sums_are_not_written_to() -> None:
    statistics = sums()
    A, B = statistics.A.clone(), statistics.B.clone()

    weights(statistics)

    assert torch.equal(statistics.A, A) and torch.equal(statistics.B, B)


def test_extreme_sums_enter_the_solve_without_rounding() -> None:
    features = torch.full((4000, 2), LARGEST, dtype=torch.int16)
    features[0, 1] = LARGEST - 1
    statistics = gram(Rows(features, features[:, :1].contiguous()))

    system = np.multiply(statistics.A.numpy(), SCALE * SCALE, dtype=np.float64)

    assert (system * 2.0**24).astype(np.int64).tolist() == statistics.A.tolist()


def test_the_thread_limit_of_the_caller_does_not_matter_and_is_given_back() -> None:
    statistics = sums(d=700, n=900)

    with threadpool_limits(2, user_api="blas"):
        first = digest(weights(statistics))
        after = {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
    with threadpool_limits(1, user_api="blas"):
        second = digest(weights(statistics))

    assert first == second
    assert after == {2}


def test_a_fresh_process_gives_the_same_bits_as_this_warm_one() -> None:
    here = [digest(weights(sums(d=d, seed=d, n=900))) for d in (7, 130, 700)]

    code = "from test_solve import *; [sys.stdout.write(digest(weights(sums(d=d, seed=d, n=900))) + ' ') for d in (7, 130, 700)]"
    folder = Path(__file__).parent
    kernels = {name: value for name, value in os.environ.items() if name.startswith("OPENBLAS_")}  # another choice of kernels, other bits
    environment = kernels | {"PYTHONPATH": f"{folder}:{folder.parent.parent}", "PATH": "", "OPENBLAS_NUM_THREADS": "2"}
    fresh = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=120)

    assert fresh.stdout.split() == here


def test_many_solves_in_a_row_give_the_same_bits_wherever_memory_lies() -> None:
    statistics = sums(d=301)
    first = digest(weights(statistics))

    for size in range(1, 40):
        kept = [np.empty(size * 1001, dtype=np.uint8) for _ in range(3)]  # moves the next allocation

        assert digest(weights(statistics)) == first
        del kept


def test_a_matrix_without_factor_is_refused_by_name() -> None:
    A = torch.tensor([[1, 2], [2, 1]]) * 2**24
    with pytest.raises(NotPositiveDefinite, match="larger ridge"):
        weights(Statistics(A, torch.ones(2, 1, dtype=torch.int64), 1), ridge=1e-9)


def test_the_digest_is_that_of_the_documented_bytes() -> None:
    found = weights(sums())

    assert digest(found) == hashlib.sha256(found.numpy().astype("<f8").tobytes()).hexdigest()
    assert digest(found) != digest(found + 2.0**-60)
