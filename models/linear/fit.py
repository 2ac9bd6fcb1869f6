"""Fit a core: train the network on core rows, then its scale and its linear part on the same rows."""

from __future__ import annotations

import torch
from torch import Tensor

from models.data import Samples
from models.linear.core_file import load_network
from models.linear.features import FEATURE_SCALE
from models.linear.frozen import TARGET, Core, exactly_summable, linear_part, refuse_unless_positive, target_scale
from models.linear.ridge import choose_ridge
from models.linear.rows import core_rows, normal_equations
from models.linear.solve import minimise
from models.nets import Architecture, Network, build
from models.progress import Progress, Stop, check, never, silent
from models.train import Training, train

MOST_ROWS = 1 << 23  # a sum of so many products below 2^30 is below 2^53: A goes into the solve unrounded


def fit_core(
    architecture: Architecture,
    samples: Samples,
    training: Training,
    *,
    expected_rows: int,
    target: float = TARGET,
    ridge: float | None = None,
    weights: dict[str, Tensor] | None = None,
    progress: Progress = silent,
    stop: Stop = never,
) -> Core:
    """Fit everything that user rows will not touch, from core rows alone.

    Args:
        architecture: the network's form; its classes may be more than the core rows have.
        samples: the core rows, at least 2.
        training: how the network is trained; its seed also draws the first weights.
        expected_rows: how many user rows the model is declared for. Several times the core rows favour a smaller L, never multiply it
            (`models.linear.ridge` says why); more rows in all than float64 can hold the sums of are refused.
        target: a > 0.
        ridge: L > 0; None chooses it on core rows (`models.linear.ridge`).
        weights: network weights to use instead of training, by `named` parameters and buffers of the network.
        progress: told the phases "train core", "choose ridge", "encode" and "fit linear part".
        stop: asked before every batch.

    Raises:
        CoreMismatch: if `weights` do not fit the architecture.
        ValueError: on too few or too many rows, or an architecture with an adapter and no weights.
        NotFinite: if the inputs or the network give a value that is not finite, naming the row.
        Stopped: when `stop` answers True.
    """
    refuse_unless_positive("target", target)
    if len(samples) < 2:
        raise ValueError(f"a core needs at least 2 rows, not {len(samples)}")
    if not 0 <= expected_rows <= MOST_ROWS - len(samples):
        raise ValueError(f"expected_rows lies between 0 and {MOST_ROWS} less the core rows, not at {expected_rows}")
    if architecture.adapter is not None and weights is None:
        raise ValueError("a network with an adapter is given as weights: training it for the task alone would bring the attribute back")
    net = given_network(architecture, weights, samples) if weights is not None else trained(architecture, samples, training, progress, stop)
    rows = core_rows(net, samples, target=target, progress=progress, stop=stop)
    if ridge is None:
        given = rows if weights is not None else None
        ridge = choose_ridge(
            architecture, samples, training, target=target, expected_rows=expected_rows, given=given, progress=progress, stop=stop
        )
    refuse_unless_positive("ridge", ridge)
    check(stop)
    A, right = normal_equations(rows)
    weight = exactly_summable(torch.from_numpy(minimise(A, right, feature_scale=FEATURE_SCALE, ridge=ridge)))
    residual = rows.targets - rows.base - linear_part(rows.features, weight, scale=FEATURE_SCALE)
    progress("fit linear part", 1.0)
    return Core(
        architecture=architecture,
        net=net,
        tap_index=rows.index,
        tap_mean=rows.mean,
        tap_scale=rows.scale,
        feature_scale=FEATURE_SCALE,
        target_scale=target_scale(target, largest=float(residual.abs().max())),
        logit_scale=rows.logit_scale,
        ridge=float(ridge),
        target=float(target),
        weight=weight,
    )


def trained(architecture: Architecture, samples: Samples, training: Training, progress: Progress, stop: Stop) -> Network:
    """Build the network from the training's seed and train it."""
    net = build(architecture, training.seed)
    train(net, samples, training, progress=progress, stop=stop)
    return net


def given_network(architecture: Architecture, weights: dict[str, Tensor], samples: Samples) -> Network:
    """Build the network with given weights; without `input.mean` and `input.std` it takes these from the core rows."""
    net = load_network(architecture, weights)
    if "input.mean" not in weights and "input.std" not in weights:
        net.input.fit(samples.inputs)
    return net
