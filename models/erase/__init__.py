"""The ways to take an attribute's information out of a network, by the names that a request uses."""

from __future__ import annotations

METHODS: dict[str, str] = {
    "irene": "Train against private heads: minimise the mutual information between the attribute and what they answer.",
    "lnl": "Learning Not to Learn: maximise a bias head's uncertainty, then reverse its gradient.",
    "quantized": "Binary stochastic neurons whose information about the attribute is computed, not estimated; served stochastically.",
    "leace": "The least change after which no linear reader can tell the attribute: closed form, says nothing about other readers.",
}
