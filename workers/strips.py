"""The decoder's audit: how much of an image what is served tells, with strips of redrawn images beside the numbers."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from models.audit import decoder
from models.audit.decoder import Decoder, Decoding, Gain, Scored
from models.audit.findings import SERVED
from models.guarantee import Measured, Power
from models.progress import Progress
from service.auditing import POLICY
from workers.audit_figures import table
from workers.audited import Audited
from workers.auditing import Found
from workers.failure import Failure
from workers.judging import SEED

GAP, GREY = 2, 128
DRAWS = 3
"""Samples drawn for each picture."""

THUMBNAIL = 4
"""Side of the small copy of an image that is planted as a leak."""

SMALL_RATE = 4e-3
"""Of images up to 12 pixels wide: told a thumbnail, decoders of 200 digits save .16 nats a dimension by this rate, .02 by the default."""

NOT_A_BOUND = "An estimate, and no bound: high means that the image shows; low proves nothing."


def measure_decoder(version: Audited, task: Mapping[str, Any], progress: Progress) -> Found:
    """Train decoders on the audit rows' validation half, and foretell the images of their final half.

    Four of them with one budget: told nothing; told what is served; told what is served for another image (the null: any gain is the
    decoder's own); told a thumbnail of the image (the planted leak, which must be seen).
    """
    count, rules = task["counts"], POLICY["audits"]["decoder"]
    train, test = version.chooses, version.decides
    if len(train) < 2 * decoder.HELD_OUT or len(test) < 20:
        raise Failure("audit_rows", "Too few audit images: a decoder needs 16 of the validation half and 20 of the final half.")
    how = decoding(train.inputs, count.get("decoder_steps", rules["steps"]))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    learn, judge = version.answers(train).float(), version.answers(test).float()
    mixed = torch.Generator().manual_seed(SEED)
    told: dict[str, tuple[Tensor, Tensor] | None] = {
        "nothing": None,
        "served": (learn, judge),
        "shuffled": (learn[torch.randperm(len(learn), generator=mixed)], judge[torch.randperm(len(judge), generator=mixed)]),
        "thumbnail": (thumbnail(train.inputs), thumbnail(test.inputs)),
    }
    scores: dict[str, Scored] = {}
    fitted: dict[str, Decoder] = {}
    for place, (name, known) in enumerate(told.items()):
        def part(_: str, done: float, place: int = place) -> None:
            progress("decoder", (place + done) / (len(told) + 1))

        fitted[name] = decoder.fit(train.inputs, known[0] if known else None, how, device=device, progress=part)
        scores[name] = decoder.nll(fitted[name], test.inputs, known[1] if known else None)
    gains = {name: decoder.gain(scores["nothing"], score) for name, score in scores.items() if name != "nothing"}
    pictures = min(count.get("pictures", rules["pictures"]), len(test))
    drawn = {"decoder-strip.png": strip(fitted["served"], judge[:pictures], test.inputs[:pictures], train.inputs)} if pictures else {}
    return Found(_stated(scores, gains), {"decoder.csv": _csv(scores, gains)}, drawn)


def decoding(images: Tensor, steps: int) -> Decoding:
    """How decoders of these images `[n, C, H, W]` are built and trained."""
    how = replace(decoder.default_decoding((images.shape[1], images.shape[2], images.shape[3]), seed=SEED), steps=steps)
    return replace(how, rate=SMALL_RATE) if how.levels == 1 else how


def _stated(scores: Mapping[str, Scored], gains: Mapping[str, Gain]) -> list[Measured]:
    served, null, planted = gains["served"], gains["shuffled"], gains["thumbnail"]
    caught = planted.ci95[0] > max(0.0, null.ci95[1])
    power, n = Power(planted=1, caught=int(caught)), served.n
    said = "a planted thumbnail of the image was seen" if caught else "void: not even a planted thumbnail of the image was seen"
    told = Measured(audit="decoder", access=SERVED, metric="information about the image, nats a dimension", value=served.value,
                    ci95=served.ci95, n=n, null=(null.value, null.ci95[1]), reference=planted.value, power=power, void=not caught,
                    note=f"{NOT_A_BOUND} The null is the same decoder told of other images; {said}.")  # fmt: skip
    bits = Measured(audit="decoder", access=SERVED, metric="bits a dimension, told what is served", value=scores["served"].bits, ci95=None,
                    n=n, reference=scores["nothing"].bits, note="The reference is a decoder that is told nothing.")  # fmt: skip
    return [told, bits]


def _csv(scores: Mapping[str, Scored], gains: Mapping[str, Gain]) -> bytes:
    rows = []
    for name, score in scores.items():
        found = gains.get(name)
        rows.append((name, score.mean, score.bits, *((found.value, *found.ci95) if found else ("", "", "")), len(score.nats)))
    return table(("told", "nats_a_dimension", "bits_a_dimension", "gain_nats", "low", "high", "images"), rows)


def thumbnail(images: Tensor) -> Tensor:
    """`[n, C 16]` float32: the image at 4x4."""
    return functional.adaptive_avg_pool2d(images.float(), THUMBNAIL).flatten(1)


def strip(told: Decoder, h: Tensor, images: Tensor, others: Tensor, *, before: tuple[Decoder, Tensor] | None = None) -> bytes:
    """Draw a row an image: the image; samples given what is served, `before` first where there is one; its nearest among `others`.

    Args:
        h: `[n, ...]` what is served for each of `images`.
        others: kept images that an image could be mistaken for.
        before: a decoder and h of the version before.

    Returns:
        a PNG.
    """
    columns = [images]
    for place, (one, known) in enumerate((*((before,) if before else ()), (told, h))):
        columns += [decoder.sample(one, known, seed=SEED + 10 * place + draw) for draw in range(DRAWS)]
    columns.append(nearest(images, others))
    return png(columns)


def nearest(images: Tensor, others: Tensor) -> Tensor:
    """The one of `others` that is nearest to each image, by squared distance of pixels."""
    apart = torch.cdist(images.flatten(1).double(), others.flatten(1).double())
    return others[apart.argmin(dim=1)]


def png(columns: list[Tensor]) -> bytes:
    """Images side by side and one under the other, with grey gaps, as a PNG of at least three pixels a pixel.

    Args:
        columns: of `[n, C, H, W]` uint8 each.
    """
    n, channels, height, width = columns[0].shape
    sheet = torch.full((channels, n * (height + GAP) + GAP, len(columns) * (width + GAP) + GAP), GREY, dtype=torch.uint8)
    for column, images in enumerate(columns):
        for row in range(n):
            top, left = GAP + row * (height + GAP), GAP + column * (width + GAP)
            sheet[:, top : top + height, left : left + width] = images[row]
    pixels = sheet.permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    scale = max(3, 96 // max(height, width))
    out = io.BytesIO()
    image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST).save(out, format="PNG")
    return out.getvalue()
