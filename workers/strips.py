"""The decoder's audit: how much of an image what is served tells, with strips of redrawn images beside the numbers."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from models.audit import decoder, findings
from models.audit.decoder import Decoder, Gain, Scored
from models.audit.findings import mean_and_largest, shown
from models.data import Samples
from models.guarantee import Measured, Power
from models.progress import Progress
from service.policies import AUDITS
from workers.audit_figures import table
from workers.audited import Audited
from workers.auditing import Found
from workers.beyond import NOT_A_BOUND, beyond, saved
from workers.failure import Failure
from workers.fitted import SERVED, WITHOUT, Members, members
from workers.judging import SEED
from workers.null import Null
from workers.telling import NOTHING, THUMBNAIL, tell, thumbnail

GAP, GREY = 2, 128
DRAWS = 3
"""Samples drawn for each picture."""

SHUFFLED = "shuffled"
"""Who is told what is served for another image."""

RETRAINED = "retrained "
"""Who is told what a retrained version serves; numbered."""

DIVERGED = " A decoder that was told of a retrained version diverged, and is left out."

REFITTING = 0.1
"""Share of the time that refits without a group take."""

BEYOND = "what the version tells of an image that it was fitted on, beyond a refit without it, nats a dimension"


def measure_decoder(version: Audited, task: Mapping[str, Any], progress: Progress) -> Found:
    """Train decoders on the audit rows' validation half, and foretell the images of their final half.

    All go on from one that is told nothing, with one budget: told nothing still; told what is served; told what each of two retrained
    versions serves (the null: what training alone makes of the score); told what is served for another image (any gain is the decoder's
    own); told a thumbnail of the image (the planted leak, which must be seen). One more is told what a refit without some user samples
    serves: it and the second foretell their images from what either serves.
    """
    count, rules = task["counts"], AUDITS["audits"]["decoder"]
    train, test = version.chooses, version.decides
    if len(train) < 2 * decoder.HELD_OUT or len(test) < 20:
        raise Failure("audit_rows", "Too few audit images: a decoder needs 16 of the validation half and 20 of the final half.")
    group = members(version, lambda done: progress("", REFITTING * done))
    known = _known(version, train, test)
    told = {name: learn for name, (learn, _) in known.items()}
    if isinstance(group, Members):
        told[WITHOUT] = version.reads(train)(group.versions[WITHOUT]).float()
    steps, spare = count.get("decoder_steps", rules["steps"]), {name for name in known if name.startswith(RETRAINED)}
    fitted = tell(train.inputs, told, steps, lambda part, done: progress(part, REFITTING + (1 - REFITTING) * done), spare=spare)
    scores = {NOTHING: decoder.nll(fitted[NOTHING], test.inputs, None)}
    scores |= {name: decoder.nll(fitted[name], test.inputs, judged) for name, (_, judged) in known.items() if name in fitted}
    gains = {name: decoder.gain(scores[NOTHING], score) for name, score in scores.items() if name != NOTHING}
    files, alone = {"decoder.csv": _csv(scores, gains)}, DIVERGED if spare - set(fitted) else ""
    pictures, judge = min(count.get("pictures", rules["pictures"]), len(test)), known[SERVED][1]
    drawn = {"decoder-strip.png": strip(fitted[SERVED], judge[:pictures], test.inputs[:pictures], train.inputs)} if pictures else {}
    if isinstance(group, Members):
        return Found([*_stated(scores, gains, version.null, alone), _beyond(version, group, fitted)], files, drawn)
    return Found(_stated(scores, gains, version.null, f"{alone} Of images that it was fitted on nothing is said. {group}"), files, drawn)


def _known(version: Audited, train: Samples, test: Samples) -> dict[str, tuple[Tensor, Tensor]]:
    """What decoders are told of the images that they learn from, and of those that they foretell."""
    learn, judge = version.answers(train).float(), version.answers(test).float()
    mixed = torch.Generator().manual_seed(SEED)
    known = {
        SERVED: (learn, judge),
        SHUFFLED: (learn[torch.randperm(len(learn), generator=mixed)], judge[torch.randperm(len(judge), generator=mixed)]),
        THUMBNAIL: (thumbnail(train.inputs), thumbnail(test.inputs)),
    }
    some = replace(version.null, versions=version.null.versions[: AUDITS["audits"]["decoder"]["retrainings"]])
    for number, pair in enumerate(zip(some.answers(train), some.answers(test), strict=True), start=1):
        known[f"{RETRAINED}{number}"] = pair[0].float(), pair[1].float()
    return known


def _beyond(version: Audited, group: Members, fitted: Mapping[str, Decoder]) -> Measured:
    images, read = group.rows.inputs, version.reads(group.rows)
    served = {name: read(weights).float() for name, weights in group.versions.items()}
    _, gains = beyond([fitted[SERVED], fitted[WITHOUT]], served, images, than=WITHOUT)
    planted = decoder.gain(decoder.nll(fitted[NOTHING], images, None), decoder.nll(fitted[THUMBNAIL], images, thumbnail(images)))
    return saved(gains[SERVED], [gain for name, gain in gains.items() if name != SERVED], planted, BEYOND)


def _stated(scores: Mapping[str, Scored], gains: Mapping[str, Gain], null: Null, alone: str = "") -> list[Measured]:
    """Say what was found.

    Args:
        null: the retrained versions, of which the first have decoders.
        alone: what more there is to say.
    """
    served, shuffled, planted = gains[SERVED], gains[SHUFFLED], gains[THUMBNAIL]
    again = [name for name in scores if name.startswith(RETRAINED)]
    caught = planted.ci95[0] > max(0.0, shuffled.ci95[1])
    power, n = Power(planted=1, caught=int(caught)), served.n
    said = "a planted thumbnail of the image was seen" if caught else "void: not even a planted thumbnail of the image was seen"
    beside = f"{null.about(len(again))}{' Each has a decoder of its own.' if again else ''}"
    how: dict[str, Any] = {"reference": planted.value, "power": power, "void": not caught}
    how["note"] = f"{NOT_A_BOUND} {beside} The reference is the thumbnail; {said}.{alone}"
    told = Measured(audit="decoder", access=findings.SERVED, metric="information about the image, nats a dimension", value=served.value,
                    ci95=served.ci95, n=n, null=mean_and_largest([gains[name].value for name in again]), **how)  # fmt: skip
    note = "The same decoder told what is served for other images: what it seems to gain is its own."
    own = shown("decoder", "information about the image, told of other images, nats a dimension", shuffled.value, n, ci95=shuffled.ci95,
                note=note)  # fmt: skip
    bits = shown("decoder", "bits a dimension, told what is served", scores[SERVED].bits, n, reference=scores[NOTHING].bits,
                 null=mean_and_largest([scores[name].bits for name in again]),
                 note=f"{beside} The reference is a decoder that is told nothing.")  # fmt: skip
    return [told, own, bits]


def _csv(scores: Mapping[str, Scored], gains: Mapping[str, Gain]) -> bytes:
    rows = []
    for name, score in scores.items():
        found = gains.get(name)
        rows.append((name, score.mean, score.bits, *((found.value, *found.ci95) if found else ("", "", "")), len(score.nats)))
    return table(("told", "nats_a_dimension", "bits_a_dimension", "gain_nats", "low", "high", "images"), rows)


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
