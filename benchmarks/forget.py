"""Forgetting beside the three things one could do instead, on Fashion-MNIST: seconds, memory, ratios, growth, distance to the floor."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import lapack

from benchmarks import alone, rivals, storage
from benchmarks.clock import Contender, in_turns, once
from benchmarks.data import images
from benchmarks.forget_tables import outcome_of
from benchmarks.machine import copy_rate, one_thread, peak_product_rate, where
from benchmarks.outcome import Outcome, earlier_numbers, progress
from benchmarks.setting import ALL_FORMS, FORMS, Case, Form, Setting, case, prepare, statistics_at, write_case
from models.forget.refit import weights_of
from models.linear.core import Core, logits
from models.linear.statistics import Rows, Statistics, subtract
from models.train import Training

NAME = "forget"
MINUTES = 6
MINUTES_FULL = 30


@dataclass(frozen=True)
class Scale:
    """How large the measurement is."""

    core_rows: int = 10_000
    user_rows: tuple[int, ...] = (5_000, 15_000, 50_000)
    gone: tuple[int, ...] = (1, 100, 1_000)
    memory_at: tuple[int, ...] = (5_000, 50_000)
    """n of the runs in fresh processes."""
    repeats: int = 7
    forms: tuple[Form, ...] = FORMS


def run(*, full: bool = False, names: Sequence[str] = ()) -> Outcome:
    """Measure every form of the features; the wide one and the dearer network where `full`.

    Args:
        names: measure these forms alone. What an earlier run found of others stays in the result.

    Raises:
        DataMissing: without the benchmark data.
        HashesDiffer: a forgotten model is not bit for bit the refitted one.
    """
    forms = tuple(form for form in ALL_FORMS if form.name in names) or (ALL_FORMS if full else FORMS)
    earlier = earlier_numbers(NAME).get("forms", {})
    return measured(images("fashion_mnist", "train"), images("fashion_mnist", "test"), Scale(forms=forms), earlier)


def measured(data: Any, test: Any, scale: Scale, earlier: Mapping[str, Any] = MappingProxyType({})) -> Outcome:
    """Measure on any images; `run` does on Fashion-MNIST."""
    numbers: dict[str, Any] = {"product_flops": peak_product_rate(), "core_rows": scale.core_rows, "forms": dict(earlier)}
    for form in scale.forms:
        setting = prepare(
            form, data, test, core_rows=scale.core_rows, user_rows=scale.user_rows[-1], training=Training(epochs=form.core_epochs)
        )
        numbers["forms"][form.name] = of_form(setting, form, scale, product_flops=numbers["product_flops"])
    return outcome_of(NAME, numbers, scale.user_rows, scale.gone)


class HashesDiffer(Exception):
    """A forgotten result is not the refitted one: no figure about its speed is worth anything."""


def of_form(setting: Setting, form: Form, scale: Scale, *, product_flops: float) -> dict[str, Any]:
    """Measure one choice of features at every n and k."""
    found: dict[str, Any] = {"form": asdict(form), "d": setting.core.d, "ridge": setting.core.ridge, "where": where(), "cells": []}
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        sums = statistics_at(setting, scale.user_rows)
        found["accuracy"] = accuracy(setting, sums[scale.user_rows[-1]])
        for n in scale.user_rows:
            stored = storage.store(setting, sums[n], Path(folder) / f"stored-{n}", n=n)
            for k in scale.gone:
                progress(f"{form.name}: n = {n:,}, k = {k:,}")
                found["cells"].append(of_cell(case(setting, sums[n], n=n, k=k), n=n, k=k, repeats=scale.repeats, raw=k == scale.gone[1]))
                found["cells"][-1]["job"] = [asdict(storage.run_step(stored, storage.gone_rows(n, k), turn=i)) for i in range(3)]
        found["growth"] = with_n(setting, sums, k=scale.gone[1], repeats=2 * scale.repeats)
        d = setting.core.d
        found["copy_bytes"] = copy_rate(8 * d * d)
        found["floor"] = floor(d, setting.core.classes, scale.gone[1], flops_rate=product_flops, bytes_rate=found["copy_bytes"])
        found["alone"] = [in_fresh_processes(setting, sums[n], Path(folder) / f"case-{n}", n=n, k=scale.gone[1]) for n in scale.memory_at]
    with tempfile.TemporaryDirectory() as folder:
        n = scale.user_rows[-1]
        progress(f"{form.name}: retraining in two processes, and fine-tuning on two threads")
        found["two"] = with_two(setting, case(setting, sums[n], n=n, k=scale.gone[1]), Path(folder))
    return found


def accuracy(setting: Setting, statistics: Statistics) -> dict[str, float]:
    """Count test accuracy with and without the user weights: what this choice of features is worth."""
    weights = weights_of(setting.core, statistics)
    right = {
        name: logits(setting.core, w, setting.test.inputs).argmax(dim=1) == setting.test.labels
        for name, w in (("core", torch.zeros_like(weights)), ("user", weights))
    }
    return {name: float(hits.double().mean()) for name, hits in right.items()}


def of_cell(one: Case, *, n: int, k: int, repeats: int, raw: bool) -> dict[str, Any]:
    """Measure one request: (a) with its two halves and the bare LAPACK calls in turns, (b) always, (c) and (d) where `raw`.

    Raises:
        HashesDiffer: the sums or the weights of (a) and (b), or of (a) and (c), differ in a bit.
    """
    core, kept = one.core, subtract(one.statistics, one.gone)
    system, right = ready_system(core, kept)
    quick = in_turns({
        "forget": Contender(lambda _: rivals.forget(one.statistics, one.gone, core)),
        "subtract": Contender(lambda _: subtract(one.statistics, one.gone)),
        "solve": Contender(lambda _: weights_of(core, kept)),
        "lapack": Contender(bare_lapack, prepare=lambda: (system.copy(), right.copy(order="F"))),
    }, repeats=repeats)  # fmt: skip
    after = rivals.digests(rivals.forget(one.statistics, one.gone, core))
    slow: dict[str, list[float]] = {"refit_cached": []}
    for _ in range(3 if n <= 15_000 else 2):
        again, spent = once(lambda: rivals.refit_cached(core, one.begun, one.kept))
        slow["refit_cached"].append(spent)
    require_equal(after, rivals.digests(again), n=n, k=k)
    if raw:
        again, spent = once(lambda: rivals.refit_raw(core, one.begun, one.kept_samples))
        require_equal(after, rivals.digests(again), n=n, k=k)
        slow["refit_raw"] = [spent]
        slow["fine_tune"] = [once(lambda: rivals.fine_tune(core, one.kept_samples))[1]]
    return {"n": n, "k": k, "used": len(system), "equal": True, "seconds": {name: list(t.seconds) for name, t in quick.items()} | slow}


def with_n(setting: Setting, sums: dict[int, Statistics], *, k: int, repeats: int) -> dict[str, list[float]]:
    """Time (a) at every n in turns: growth is judged on rounds that all saw the same machine."""
    cases = {str(n): case(setting, sums[n], n=n, k=k) for n in sums}
    turns = {n: Contender(partial(_forget_case, one)) for n, one in cases.items()}
    return {n: list(timing.seconds) for n, timing in in_turns(turns, repeats=repeats).items()}


def _forget_case(one: Case, _: None) -> None:
    rivals.forget(one.statistics, one.gone, one.core)


def require_equal(forgotten: tuple[str, str], refitted: tuple[str, str], *, n: int, k: int) -> None:
    """Raise `HashesDiffer` unless both pairs of digests agree."""
    if forgotten != refitted:
        raise HashesDiffer(f"forgetting {k} of {n} rows gave {forgotten}, refitting {refitted}")


def ready_system(core: Core, statistics: Statistics) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return s^2 A + L I over the features in use, and s s_r B, as the float64 matrices that LAPACK works on."""
    used = (statistics.A.diagonal() > 0).numpy()
    system = statistics.A.numpy()[used][:, used] * core.feature_scale**2
    system[np.diag_indices_from(system)] += core.ridge
    return np.asfortranarray(system), np.asfortranarray(statistics.B.numpy()[used] * (core.feature_scale * core.target_scale))


def bare_lapack(given: tuple[NDArray[np.float64], NDArray[np.float64]]) -> None:
    """Factorise and solve, and nothing else. Overwrites what it is given."""
    factor, failed = lapack.dpotrf(given[0], lower=0, clean=0, overwrite_a=1)
    lapack.dpotrs(factor, given[1], lower=0, overwrite_b=1)
    assert not failed


def floor(d: int, classes: int, k: int, *, flops_rate: float, bytes_rate: float) -> dict[str, float]:
    """Return the least that (a) can take: its flops at the rate of a matrix product, its bytes at that of a copy of a matrix its size.

    flops: d^3/3 to factorise, 2 d^2 C to solve, k d (d + C) for the gone rows. Bytes: A is read and its successor written (8 d^2 each),
    read again and written as float64 (8 d^2 each); the rest is small. The two are added: the products wait for the bytes.
    """
    flops = d**3 / 3 + 2 * d**2 * classes + k * d * (d + classes)
    moved = 4 * 8 * d**2 + 2 * k * (d + classes)
    return {"flops": flops, "bytes": float(moved), "seconds": flops / flops_rate + moved / bytes_rate}


def in_fresh_processes(setting: Setting, statistics: Statistics, folder: Path, *, n: int, k: int) -> dict[str, Any]:
    """Run each method once in a process of its own, for its peak of memory."""
    write_case(folder, case(setting, statistics, n=n, k=k))
    found: dict[str, Any] = {"n": n, "k": k}
    for method in alone.METHODS:
        progress(f"peak memory of {method} at n = {n:,}")
        found[method] = asdict(alone.finish(alone.start(method, folder)))
    return found


def with_two(setting: Setting, whole: Case, folder: Path) -> dict[str, float]:
    """Measure what a second core gives the rivals: (c) by two processes on half of the rows each, (d) on two threads.

    (c) then ends when the later process does. Each of them solves, which stands for merging their sums and solving once.
    """
    half = len(whole.kept) // 2
    for i, part in enumerate((slice(None, half), slice(half, None))):
        rows = torch.arange(len(whole.kept))[part]
        kept = Rows(whole.kept.features[rows], whole.kept.targets[rows])
        write_case(folder / f"half-{i}", Case(whole.core, whole.begun, whole.statistics, whole.gone, kept, whole.kept_samples.select(rows)))
    processes = [alone.start("refit_raw", folder / f"half-{i}") for i in range(2)]
    slower = max(alone.finish(process).seconds for process in processes)
    _, tuned = once(lambda: rivals.fine_tune(whole.core, whole.kept_samples, threads=2))
    return {"refit_raw": slower, "fine_tune": tuned}
