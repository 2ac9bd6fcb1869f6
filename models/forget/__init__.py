"""The ways to forget samples, by the names that a request uses."""

from __future__ import annotations

METHODS: dict[str, str] = {
    "exact": "Subtract the samples' integer rows from the sums and solve again: the bits of refitting on the same core.",
    "retrain": "Train a new core without the samples, then refit: the only way to forget a core sample.",
    "cg": "One Newton step of a linearised network, by preconditioned conjugate gradients, released with noise: a stated mu.",
    "sgd": "The same step by the paper's stochastic gradient descent: for comparison, far slower.",
    "zero": "Forget every user row: the user weights become 0, the core's own output remains.",
}
