"""From a model's written form to its mathematics: architecture, training and core, the same way for fit, retrain and reproduce."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from torch import Tensor

from models.data import Samples
from models.linear.core import Core, CoreMismatch, fit_core, plain_core
from models.nets import Architecture
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
    if samples is None or len(samples) < 2:
        raise Failure("core_rows", "Fewer than 2 core rows are left: a core cannot be trained. Use core `none`, or upload more core rows.")
    try:
        return fit_core(
            architecture,
            samples,
            training_of(spec, architecture, len(samples)),
            target=spec["target"],
            ridge=spec["ridge"],
            expected_rows=spec["expected_rows"] or len(samples),
            weights=dict(given) if given is not None else None,
            progress=progress,
        )
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
    training = asdict(training_of(spec, core.architecture, core_rows))
    return {
        k: _text(v)
        for k, v in (
            written | {f"training.{k}": v for k, v in training.items()} | {"expected_rows": spec["expected_rows"] or core_rows}
        ).items()
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
