"""The decoder's audit: how much of an image what is served tells, with strips of redrawn images beside the numbers."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from models.audit import decoder
from models.audit.decoder import Decoder, Gain, Scored
from models.audit.findings import SERVED
from models.audit.utility import SMALLEST
from models.data import Samples
from models.forget.refit import weights_of
from models.guarantee import Measured, Power
from models.linear.core import encode, logits_of_rows
from models.linear.statistics import Rows, Statistics, subtract
from models.progress import Progress
from service.policies import AUDITS
from workers.artifacts import rows_with_role, samples_of
from workers.attributed import tables
from workers.audit_figures import table
from workers.audited import Audited
from workers.auditing import Found
from workers.beyond import MOST_JUDGED, NOT_A_BOUND, REFITS, beyond, saved
from workers.failure import Failure
from workers.judging import SEED
from workers.telling import NOTHING, THUMBNAIL, tell, thumbnail

GAP, GREY = 2, 128
DRAWS = 3
"""Samples drawn for each picture."""

WITHOUT = "without"
"""The version that is refitted without a group of user samples."""

BEYOND = "what the version tells of an image that it was fitted on, beyond a refit without it, nats a dimension"


@dataclass(frozen=True)
class Members:
    """User samples that a version was fitted on, and what it and refits serve."""

    images: Tensor
    """`[n, C, H, W]` theirs. Told in numbers, never drawn."""
    learn: Tensor
    """What the refit without them serves for the images that decoders learn from."""
    served: Mapping[str, Tensor]
    """What each version serves for `images`."""


def measure_decoder(version: Audited, task: Mapping[str, Any], progress: Progress) -> Found:
    """Train decoders on the audit rows' validation half, and foretell the images of their final half.

    All go on from one that is told nothing, with one budget: told nothing still; told what is served; told what is served for another image
    (the null: any gain is the decoder's own); told a thumbnail of the image (the planted leak, which must be seen). Of a model of fixed
    features a fifth is told what a refit without some user samples serves: it and the second foretell their images from what either serves.
    """
    count, rules = task["counts"], AUDITS["audits"]["decoder"]
    train, test = version.chooses, version.decides
    if len(train) < 2 * decoder.HELD_OUT or len(test) < 20:
        raise Failure("audit_rows", "Too few audit images: a decoder needs 16 of the validation half and 20 of the final half.")
    learn, judge = version.answers(train).float(), version.answers(test).float()
    mixed = torch.Generator().manual_seed(SEED)
    known: dict[str, tuple[Tensor, Tensor]] = {
        "served": (learn, judge),
        "shuffled": (learn[torch.randperm(len(learn), generator=mixed)], judge[torch.randperm(len(judge), generator=mixed)]),
        THUMBNAIL: (thumbnail(train.inputs), thumbnail(test.inputs)),
    }
    members = _members(version, train) if version.core is not None and version.plan["blocks"] else None
    own = {name: pair[0] for name, pair in known.items()} | ({} if members is None else {WITHOUT: members.learn})
    fitted = tell(train.inputs, own, count.get("decoder_steps", rules["steps"]), progress)
    scores = {NOTHING: decoder.nll(fitted[NOTHING], test.inputs, None)}
    scores |= {name: decoder.nll(fitted[name], test.inputs, pair[1]) for name, pair in known.items()}
    gains = {name: decoder.gain(scores[NOTHING], score) for name, score in scores.items() if name != NOTHING}
    pictures = min(count.get("pictures", rules["pictures"]), len(test))
    drawn = {"decoder-strip.png": strip(fitted["served"], judge[:pictures], test.inputs[:pictures], train.inputs)} if pictures else {}
    found = Found(_stated(scores, gains), {"decoder.csv": _csv(scores, gains)}, drawn)
    if members is not None:
        found.measured.append(_beyond(members, fitted))
    return found


def _members(version: Audited, train: Samples) -> Members | None:
    """A random group of user samples, at most a quarter of them; None where they are fewer than 20."""
    held, plan, generator = version.sums(), version.plan, np.random.default_rng(SEED)
    order = generator.permutation(len(held.users.ids))
    group = order[: min(MOST_JUDGED, len(order) // 4)]
    if len(group) < SMALLEST:
        return None

    def less(sums: Statistics, places: NDArray[np.int64]) -> Statistics:
        rows, chosen = held.users.rows, torch.from_numpy(places)
        return subtract(sums, Rows(rows.features[chosen], rows.targets[chosen]))

    bare = less(held.statistics, group)
    versions = {"served": held.weights, WITHOUT: weights_of(held.core, bare)}
    for number in range(REFITS):
        others = generator.choice(order[len(group) :], size=len(group), replace=False)
        versions[f"other {number + 1}"] = weights_of(held.core, less(bare, others))
    names = {held.users.ids[place] for place in group}
    blocks = [block for _, block in tables(plan, version.shelf, names)]
    judge = samples_of(rows_with_role(blocks, "user"), tuple(plan["dataset"]["shape"]), version.classes)
    own, other = (encode(held.core, each.inputs, each.labels) for each in (train, judge))
    served = {name: logits_of_rows(held.core, weights, other, judge.labels).float() for name, weights in versions.items()}
    return Members(judge.inputs, logits_of_rows(held.core, versions[WITHOUT], own, train.labels).float(), served)


def _beyond(members: Members, fitted: Mapping[str, Decoder]) -> Measured:
    images = members.images
    _, gains = beyond([fitted["served"], fitted[WITHOUT]], members.served, images, than=WITHOUT)
    planted = decoder.gain(decoder.nll(fitted[NOTHING], images, None), decoder.nll(fitted[THUMBNAIL], images, thumbnail(images)))
    return saved(gains["served"], [gain for name, gain in gains.items() if name != "served"], planted, BEYOND)


def _stated(scores: Mapping[str, Scored], gains: Mapping[str, Gain]) -> list[Measured]:
    served, null, planted = gains["served"], gains["shuffled"], gains[THUMBNAIL]
    caught = planted.ci95[0] > max(0.0, null.ci95[1])
    power, n = Power(planted=1, caught=int(caught)), served.n
    said = "a planted thumbnail of the image was seen" if caught else "void: not even a planted thumbnail of the image was seen"
    told = Measured(audit="decoder", access=SERVED, metric="information about the image, nats a dimension", value=served.value,
                    ci95=served.ci95, n=n, null=(null.value, null.ci95[1]), reference=planted.value, power=power, void=not caught,
                    note=f"{NOT_A_BOUND} The null is the same decoder told of other images; {said}.")  # fmt: skip
    bits = Measured(audit="decoder", access=SERVED, metric="bits a dimension, told what is served", value=scores["served"].bits, ci95=None,
                    n=n, reference=scores[NOTHING].bits, note="The reference is a decoder that is told nothing.")  # fmt: skip
    return [told, bits]


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
