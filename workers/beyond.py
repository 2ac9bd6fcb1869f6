"""What one version tells of images beyond another, by the same decoders: what differs is what is served, not the luck of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from models.audit import decoder
from models.audit.decoder import Decoder, Gain, Scored
from models.audit.findings import SERVED
from models.guarantee import Measured, Power

MOST_JUDGED = 200
"""Images that are foretold: of more, a random choice."""

REFITS = 4
"""Refits without other rows that the null is taken from."""

NOT_A_BOUND = "An estimate, and no bound: high means that the image shows; low proves nothing."


def beyond(
    decoders: Sequence[Decoder], served: Mapping[str, Tensor], images: Tensor, *, than: str
) -> tuple[dict[str, Scored], dict[str, Gain]]:
    """Foretell images from what each version serves for them; a version's score is the mean over the decoders.

    Args:
        decoders: of one budget, each trained on what another version serves for other images.
        served: what each version serves for `images`, `[n, ...]`.
        than: the version that others are compared with.

    Returns:
        the scores; and what each other version saves, in nats a dimension.
    """
    scores = {name: _mean([decoder.nll(one, images, known) for one in decoders]) for name, known in served.items()}
    return scores, {name: decoder.gain(scores[than], score) for name, score in scores.items() if name != than}


def saved(found: Gain, null: Sequence[Gain], planted: Gain, metric: str) -> Measured:
    """State what a version saves, beside refits that differ in other rows, and a planted thumbnail that must save more than they do."""
    limit = max(abs(bound) for gain in null for bound in gain.ci95)  # which of two refits comes out ahead is chance
    caught = planted.ci95[0] > limit
    seen = f"a planted thumbnail of the image saves {planted.value:.3g}" if caught else "not even a planted thumbnail of the image was seen"
    return Measured(
        audit="decoder",
        access=SERVED,
        metric=metric,
        value=found.value,
        ci95=found.ci95,
        n=found.n,
        null=(sum(gain.value for gain in null) / len(null), limit),
        power=Power(planted=1, caught=int(caught)),
        void=not caught,
        note=f"{NOT_A_BOUND} The null is {len(null)} refits without as many others, and the farthest end of their intervals; {seen}.",
    )


def _mean(scores: Sequence[Scored]) -> Scored:
    return Scored(torch.stack([score.nats for score in scores]).mean(dim=0), scores[0].dimensions)
