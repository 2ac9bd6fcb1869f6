"""Decoders of the same images that are told different things: all go on from one that was told nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from torch import Tensor
from torch.nn import functional

from models.audit import decoder
from models.audit.decoder import Decoder, Decoding
from models.device import accelerator
from models.progress import Progress
from workers.failure import Failure
from workers.judging import SEED

NOTHING, THUMBNAIL = "nothing", "thumbnail"
"""Who is told nothing, and trained for as many steps as the others; and who is told a small copy of the image, the planted leak."""

SHARE = 2
"""One that is told something goes on for one step in so many of those that the first was trained."""

SMALL_RATE, GOING_ON = 4e-3, 1e-3
"""Learning rates: of a first decoder of images up to 12 pixels wide, whose small number of pixels the default unsettles; of going on."""

SIDE = 4
"""Of the small copy."""


def tell(
    images: Tensor, known: Mapping[str, Tensor], steps: int, progress: Progress, *, spare: Collection[str] = ()
) -> dict[str, Decoder]:
    """Train a decoder for each, and one more of the same budget that is told nothing, on a GPU where there is one.

    Args:
        images: `[n, C, H, W]` uint8, to learn from.
        known: `[n, ...]` each, what is told of them.
        steps: of the first decoder. Each of the others goes on from it.
        spare: those that are left out if they diverge.

    Raises:
        Failure: `decoder`, where another diverges.
    """
    device = str(accelerator())
    how = decoding(images, steps)
    on = replace(how, steps=max(1, steps // SHARE), rate=GOING_ON)
    told: dict[str, Tensor | None] = {NOTHING: None, **known}
    whole = SHARE + len(told) + 1  # scoring and drawing are the last part

    def part(begun: int, units: int) -> Progress:
        return lambda _, done: progress("decoder", (begun + units * done) / whole)

    def fitted(h: Tensor | None, how: Decoding, untold: Decoder | None, told: Progress) -> Decoder:
        return decoder.fit(images, h, how, untold=untold, device=device, progress=told)

    found: dict[str, Decoder] = {}
    name = NOTHING
    try:
        untold = fitted(None, how, None, part(0, SHARE))
        for place, (name, h) in enumerate(told.items()):
            try:
                found[name] = fitted(h, on, untold, part(SHARE + place, 1))
            except ValueError:
                if name not in spare:
                    raise
    except ValueError as error:
        raise Failure("decoder", f"The decoder that is told {name} failed: {error}.") from error
    return found


def decoding(images: Tensor, steps: int) -> Decoding:
    """How the first decoder of images `[n, C, H, W]` is built and trained."""
    how = replace(decoder.default_decoding((images.shape[1], images.shape[2], images.shape[3]), seed=SEED), steps=steps)
    return replace(how, rate=SMALL_RATE) if how.levels == 1 else how


def thumbnail(images: Tensor) -> Tensor:
    """`[n, C 16]` float32: the image at 4x4."""
    return functional.adaptive_avg_pool2d(images.float(), SIDE).flatten(1)
