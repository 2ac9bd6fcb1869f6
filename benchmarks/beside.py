"""What stands beside a linearised network: `exact` on taps and fine-tuning, from the very same trained network."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks.clock import once
from benchmarks.outcome import progress
from benchmarks.tuning import Budget, accuracy_of, fine_tuned, fraction, search
from models.data import Samples
from models.forget.refit import refit_samples
from models.linear.core import fit_core, logits
from models.linear.frozen import TARGET
from models.linear.ridge import choose_ridge
from models.nets import Network
from models.train import Training


def beside(
    net: Network, core_samples: Samples, user: Samples, test: Samples, training: Training, budget: Budget
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return test accuracies of the network, of `exact` and of fine-tuning, and what was chosen; seconds by name among it.

    L of `exact` is chosen by a network of half of the core rows, as always.

    Args:
        net: trained on the core rows.
        training: how it was.
    """
    architecture = net.architecture
    ridge, choosing = once(lambda: choose_ridge(architecture, core_samples, training, target=TARGET, expected_rows=len(user), given=None))
    given = partial(fit_core, weights=net.state_dict(), ridge=ridge)
    core, fitting = once(lambda: given(architecture, core_samples, training, expected_rows=len(user)))
    right = {
        "network": accuracy_of(net, test),
        "exact": fraction(logits(core, refit_samples(core, core_samples, user).weights, test.inputs), test),
    }
    progress(f"exact, d = {core.d}, L = {ridge:g}: {right}")
    tuned, tuning = once(lambda: _tuned(net, user, training, budget))
    right["fine_tune"] = accuracy_of(tuned[0], test)
    progress(f"fine-tuned at rate {tuned[1].rate:g}, augmented {tuned[1].augment}: {right['fine_tune']:.4f}")
    return right, {"d": core.d, "rate": tuned[1].rate, "augment": tuned[1].augment,
                   "seconds": {"exact": choosing + fitting, "fine_tune": tuning}}  # fmt: skip


def _tuned(net: Network, user: Samples, training: Training, budget: Budget) -> tuple[Network, Training]:
    chosen = search(net, user, training, budget)
    return fine_tuned(net, user, replace(chosen, epochs=budget.tune)), chosen
