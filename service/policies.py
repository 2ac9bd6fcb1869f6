"""Policies: what a version of a model needs before it may be called PASSED, from the model's written form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service import facts

PROBES, ACCURACY = "fresh_probes", "accuracy"
"""Audits of an attribute's removal."""

LEAKAGE, LINEAR_LEAKAGE, DROP = "v_information_upper95_nats", "linear_v_information_upper95_nats", "accuracy_drop"
"""What they measure: of all readers, of linear readers alone, of the task."""

PLANTED = 3
"""Leaks that the probes must have caught: the value itself beside the features, a corrupted head, the version before."""

AUDITS: dict[str, Any] = {
    "name": "audit-v1",
    "audits": {
        "utility": {"fewestRows": 20},
        "distance": {"fewestRows": 20},
        "membership": {
            "shadowGroups": 128,
            "linearised": {"seen": 32, "unseen": 100},
            "targets": 100,
            "canaries": 50,
            "level": "0.01",
            "leastCaught": "0.5",
        },
        "probes": {"mostNats": "0.05", "planted": 2, "resamples": 1000, "permutations": 5, "retrainings": 2},
        "decoder": {"steps": 800, "pictures": 5, "planted": 1, "resamples": 1000, "retrainings": 2},
    },
}
"""What each audit answers by where the caller says nothing else: thresholds as decimal texts, and how much is sampled."""


def policy_of(spec: Mapping[str, Any]) -> facts.Policy:
    """The policy of a model's next version."""
    if spec.get("linearize"):
        return facts.linearised_policy(repr(spec["release"]["mu_max"]))
    return attribute_policy(spec["erased"]) if spec.get("erased") else facts.EXACT_POLICY


def attribute_policy(removed: list[Mapping[str, Any]]) -> facts.Policy:
    """Of versions from which attributes were removed: fresh probes, with power, find no more of each than its budget; the refit is proved.

    Args:
        removed: name, claim and budget of each attribute.
    """
    thresholds = []
    for entry in removed:
        metric = LINEAR_LEAKAGE if entry["claim"] == "linear" else LEAKAGE
        most = entry["budget"]
        thresholds += [
            facts.Threshold(audit=PROBES, attribute=entry["name"], metric=metric, most=repr(most["max_leakage_nats"]), planted=PLANTED),
            facts.Threshold(audit=ACCURACY, attribute=entry["name"], metric=DROP, most=repr(most["max_accuracy_drop"])),
        ]
    return facts.Policy(name="attribute-v1", audits=(PROBES,), thresholds=tuple(thresholds))
