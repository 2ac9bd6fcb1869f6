"""From a model's written form to its mathematics: architecture, training and core, the same way for fit, retrain and reproduce."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from torch import Tensor

from models.data import Samples
from models.linear.core import Core, CoreMismatch, fit_core, plain_core
from models.linear.curvature import rank_of
from models.linear.tangent import linearise
from models.linear.whole import WholeCore
from models.linear.whole_fit import WholeFit, fit_whole
from models.nets import Architecture, adapter_of, build
from models.progress import Progress
from models.train import Training, default_training
from workers.failure import Failure


def architecture_of(spec: Mapping[str, Any], shape: tuple[int, ...], classes: int) -> Architecture:
    """The network's form.

    Raises:
        Failure: `architecture`, when the form does not fit the data.
    """
    form = spec["architecture"]
    try:
        return Architecture(
            name=form["name"],
            input_shape=shape,
            classes=classes,
            activation=form["activation"],
            bottleneck=form["bottleneck"],
            taps=tuple(form["taps"]) if form["taps"] else None,
            hidden=tuple(form["hidden"]) if form["hidden"] else None,
            grid=form.get("grid"),
            adapter=adapter_of(form["adapter"]) if form.get("adapter") else None,
        )
    except ValueError as error:
        raise Failure("architecture", str(error)) from error


def training_of(spec: Mapping[str, Any], architecture: Architecture, rows: int) -> Training:
    """The training's defaults for this architecture and number of core rows, with what the model's creator changed."""
    changed = {k: v for k, v in spec["training"].items() if v is not None}
    return replace(default_training(architecture, rows), **changed)


def core_of(
    spec: Mapping[str, Any], architecture: Architecture, samples: Samples | None, *, given: Mapping[str, Tensor] | None, progress: Progress
) -> Core:
    """Train or take the core, and fit its linear part on core rows.

    Raises:
        Failure: `core_mismatch` for weights that do not fit the architecture, `core_rows` or `architecture` for what cannot be trained.
    """
    if spec["core"] == "none":
        return plain_core(architecture, range=spec["range"], ridge=spec["ridge"], target=spec["target"])
    rows = _enough(samples)
    with named_failures():
        return fit_core(
            architecture,
            rows,
            training_of(spec, architecture, len(rows)),
            target=spec["target"],
            ridge=spec["ridge"],
            expected_rows=spec["expected_rows"] or len(rows),
            weights=dict(given) if given is not None else None,
            progress=progress,
        )


def whole_of(
    spec: Mapping[str, Any], architecture: Architecture, samples: Samples | None, *, given: Mapping[str, Tensor] | None, progress: Progress
) -> WholeFit:
    """Train or take the network, linearise it, and fit on core rows all that user rows will not touch.

    Sigma is tried with noise from the training's seed: nothing is released with it, and the same seed chooses the same sigma.

    Raises:
        Failure: as `core_of`; `architecture` names a layer that the network lacks.
    """
    rows, release = _enough(samples), spec["release"]
    training = training_of(spec, architecture, len(rows))
    with named_failures():
        linearise(build(architecture, 0).eval(), layers_of(spec))  # a wrong name is told before the network is trained
        return fit_whole(
            architecture,
            rows,
            training,
            layers=layers_of(spec),
            random_bytes=np.random.default_rng(training.seed).bytes,
            target=spec["target"],
            ridge=spec["ridge"],
            sigma=release["sigma"],
            isotropic=release["noise"] == "isotropic",
            rank=release["rank"],
            weights=dict(given) if given is not None else None,
            progress=progress,
        )


def layers_of(spec: Mapping[str, Any]) -> tuple[str, ...] | None:
    """What is linearised, as the mathematics takes it; None is all."""
    return None if spec["linearize"] == "all" else tuple(spec["linearize"])


def _enough(samples: Samples | None) -> Samples:
    if samples is None or len(samples) < 2:
        raise Failure("core_rows", "Fewer than 2 core rows are left: a core cannot be trained. Use core `none`, or upload more core rows.")
    return samples


@contextmanager
def named_failures() -> Iterator[None]:
    """What the mathematics cannot work with is the job's failure, with its reason."""
    try:
        yield
    except CoreMismatch as error:
        raise Failure("core_mismatch", str(error)) from error
    except ValueError as error:
        raise Failure("architecture", str(error)) from error


def hyperparameters(spec: Mapping[str, Any], core: Core, core_rows: int) -> dict[str, str]:
    """What decides the result beside the data, as decimal texts: enough to run it again."""
    written: dict[str, Any] = {
        "target": core.target,
        "ridge": core.ridge,
        "feature_scale": core.feature_scale,
        "target_scale": core.target_scale,
        "logit_scale": core.logit_scale,
        "core": spec["core"],
    }
    if spec["core"] == "none":
        return {k: _text(v) for k, v in written.items()} | {"range": repr(spec["range"])}
    written |= _trained(spec, core.architecture, core_rows) | {"expected_rows": spec["expected_rows"] or core_rows}
    return {k: _text(v) for k, v in written.items()}


def whole_hyperparameters(spec: Mapping[str, Any], core: WholeCore, core_rows: int) -> dict[str, str]:
    """The same of a linearised model."""
    release = spec["release"]
    written: dict[str, Any] = {
        "target": core.target,
        "ridge": core.ridge,
        "logit_scale": core.logit_scale,
        "core": spec["core"],
        "linearize": spec["linearize"] if spec["linearize"] == "all" else ",".join(spec["linearize"]),
        "release.mu_max": release["mu_max"],
        "release.sigma": core.sigma,
        "release.noise": release["noise"],
        "release.rank": release["rank"] or rank_of(core.tangent.p),
    }
    written |= _trained(spec, core.tangent.net.architecture, core_rows)
    return {k: _text(v) for k, v in written.items()}


def _trained(spec: Mapping[str, Any], architecture: Architecture, core_rows: int) -> dict[str, Any]:
    training = asdict(training_of(spec, architecture, core_rows))
    return {f"training.{k}": v for k, v in training.items()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
