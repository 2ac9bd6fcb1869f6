"""One division of a data set, scored four ways; the rivals get a search of their own, on user rows held out, never on test."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks.clock import once
from benchmarks.outcome import progress
from models.data import Samples
from models.forget.retrain import Recipe, fit
from models.linear.core import core_logits, logits
from models.linear.features import activations
from models.nets import Architecture, Network, build
from models.train import Training, default_training, train

RATES = (0.01, 0.05, 0.2)
"""Peak rates tried for fine-tuning: a tenth of the core's, half of it, twice it."""

HELD_OUT = 5  # one user row in so many judges the rates


@dataclass(frozen=True)
class Budget:
    """How long the rivals train."""

    search: int
    """Epochs of each try on four fifths of the user rows."""
    tune: int
    """Epochs of the final fine-tuning on all user rows."""
    scratch: int
    """Epochs from scratch on core and user rows."""
    flip: bool = False
    """Mirror half of the images, in every training alike."""
    rates: tuple[float, ...] = RATES
    """Peak rates tried."""
    grid: bool = False
    """Try every rate with and without augmentation, not the best one alone."""
    threads: int = 1
    """Of every training: two seeds side by side use two cores better than one training on two threads."""


def scores(core_samples: Samples, user: Samples, test: Samples, budget: Budget, *, seed: int, finer: int | None = None) -> dict[str, Any]:
    """Return test accuracies, seconds, and what was chosen; with `finer` also those of features on that grid."""
    shape, classes = tuple(core_samples.inputs.shape[1:]), int(core_samples.labels.max()) + 1
    architecture = Architecture(name="convnet", input_shape=shape, classes=classes)
    training = replace(default_training(architecture, len(core_samples)), seed=seed, flip=budget.flip)
    recipe = Recipe(architecture, training, expected_rows=len(user))
    fitted, fitting = once(lambda: fit(recipe, core_samples, user))
    core, net = fitted.core, fitted.core.net
    assert net is not None
    progress(f"core fitted in {fitting:.0f} s: d = {core.d}, L = {core.ridge:g}")
    right = {
        "network": accuracy_of(net, test),
        "core": fraction(core_logits(core, test.inputs), test),
        "exact": fraction(logits(core, fitted.weights, test.inputs), test),
    }
    progress(f"core {right['core']:.4f}, exact {right['exact']:.4f}")
    spent, of_grid = {"exact": fitting}, {}
    if finer is not None:
        again, spent["finer"] = once(lambda: fit(replace(recipe, architecture=replace(architecture, grid=finer)), core_samples, user))
        right["finer"] = fraction(logits(again.core, again.weights, test.inputs), test)
        of_grid = {"grid": finer, "d_finer": again.core.d, "ridge_finer": again.core.ridge}
        progress(f"exact on a grid of {finer}: {right['finer']:.4f}, d = {again.core.d}, L = {again.core.ridge:g}")
    chosen, searching = once(lambda: search(net, user, training, budget))
    tuned, tuning = once(lambda: fine_tuned(net, user, replace(chosen, epochs=budget.tune)))
    right["fine_tune"] = accuracy_of(tuned, test)
    progress(f"fine-tuned {right['fine_tune']:.4f} at rate {chosen.rate:g}, augmented: {chosen.augment}")
    both = Samples(
        torch.cat([core_samples.inputs, user.inputs]), torch.cat([core_samples.labels, user.labels]), core_samples.ids + user.ids
    )
    from_training = replace(training, epochs=budget.scratch, threads=budget.threads, augment=chosen.augment)
    scratch, scratching = once(lambda: from_scratch(architecture, both, from_training))
    right["scratch"] = accuracy_of(scratch, test)
    progress(f"from scratch {right['scratch']:.4f}")
    spent |= {"fine_tune": searching + tuning, "scratch": scratching}
    return of_grid | {
        "accuracy": right, "seconds": spent, "d": core.d, "ridge": core.ridge, "rate": chosen.rate, "augment": chosen.augment,
        "saturated": fitted.rows.saturated,
    }  # fmt: skip


def search(net: Network, user: Samples, training: Training, budget: Budget) -> Training:
    """Choose the rate, then whether to augment, by accuracy on a fifth of the user rows."""
    order = torch.randperm(len(user), generator=torch.Generator().manual_seed(training.seed))
    held, kept = user.select(order[: len(user) // HELD_OUT]), user.select(order[len(user) // HELD_OUT :])
    base = replace(training, epochs=budget.search, threads=budget.threads)
    tried: list[tuple[float, Training]] = []
    for rate in budget.rates:
        for augment in (True, False) if budget.grid else (base.augment,):
            tried.append(_tried(net, kept, held, replace(base, rate=rate, augment=augment)))
    if budget.grid:
        return max(tried, key=lambda pair: pair[0])[1]
    best = max(tried, key=lambda pair: pair[0])[1]
    tried.append(_tried(net, kept, held, replace(best, augment=not best.augment)))
    return max(tried, key=lambda pair: pair[0])[1]


def _tried(net: Network, kept: Samples, held: Samples, training: Training) -> tuple[float, Training]:
    found = accuracy_of(fine_tuned(net, kept, training), held)
    progress(f"rate {training.rate:g}, augmented {training.augment}: {found:.4f} on user rows held out")
    return found, training


def fine_tuned(net: Network, samples: Samples, training: Training) -> Network:
    """Train a copy of the core's network, every layer of it, on these samples."""
    net = copy.deepcopy(net)
    train(net, samples, training)
    return net


def from_scratch(architecture: Architecture, samples: Samples, training: Training) -> Network:
    """Train a new network."""
    net = build(architecture, training.seed)
    train(net, samples, training)
    return net


def accuracy_of(net: Network, samples: Samples) -> float:
    """Return the fraction that a network classifies right."""
    return fraction(activations(net, samples.inputs)[1], samples)


def fraction(outputs: torch.Tensor, samples: Samples) -> float:
    """Return the fraction of samples whose largest output is their label's."""
    return float((outputs.argmax(dim=1) == samples.labels).double().mean())
