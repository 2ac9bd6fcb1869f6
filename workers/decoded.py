"""The decoder's audit of an exact removal: how well forgotten images are foretold from what each version serves for them.

Decoders learn from audit images alone. Two of one budget go on from one that is told nothing: one is told the answers of the version
before, the other those of the version after, which by its hash is the retrained one. Both then foretell the forgotten images from what each
version serves, and a version's score is the mean of theirs: what differs between versions is what they serve, and not the luck of a
training. The null are refits without as many other rows. The planted leak is a thumbnail of the image: who is told it must be seen to do
better than who is told nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from models.audit import decoder
from models.audit.decoder import Gain, Scored
from models.audit.findings import SERVED
from models.data import Samples
from models.guarantee import Measured
from models.linear.core import encode, logits_of_rows
from models.progress import Progress
from service.policies import AUDITS
from workers.artifacts import among, rows_with_role, samples_of
from workers.attributed import tables
from workers.audit_figures import table
from workers.beyond import MOST_JUDGED, NOT_A_BOUND, REFITS, beyond, saved
from workers.documents import document
from workers.forgotten import Forgotten, Shown, told
from workers.judging import SEED
from workers.strips import strip
from workers.telling import NOTHING, THUMBNAIL, tell, thumbnail

VERSIONS = ("before", "after")
"""Whose answers a decoder is trained on."""

SAME = "The version after equals the retrained one to the bit, by its hash: what is served for an image is the same, so its score is too."


def decoded(removal: Forgotten, progress: Progress) -> Shown:
    """Foretell the forgotten images from what the versions before and after serve."""
    learn, judge = _images(removal)
    if len(learn) < 2 * decoder.HELD_OUT:
        return Shown(told("decoder", {"withheld": f"Fewer than {2 * decoder.HELD_OUT} audit images: a decoder cannot learn from so few."}))
    rules = AUDITS["audits"]["decoder"]
    served = _served(removal, learn, judge)
    known = {THUMBNAIL: thumbnail(learn.inputs)} | {name: served[name][0] for name in VERSIONS}
    fitted = tell(learn.inputs, known, rules["steps"], progress)
    scores = {
        NOTHING: decoder.nll(fitted[NOTHING], judge.inputs, None),
        THUMBNAIL: decoder.nll(fitted[THUMBNAIL], judge.inputs, thumbnail(judge.inputs)),
    }
    told_of = {name: known[1] for name, known in served.items()}
    told_scores, gains = beyond([fitted[one] for one in VERSIONS], told_of, judge.inputs, than="after")
    planted = decoder.gain(scores[NOTHING], scores[THUMBNAIL])
    scores |= told_scores
    shown = [document(one) for one in _stated(scores, gains, planted)]
    few = slice(0, rules["pictures"])
    then, now = (served[name][1] for name in VERSIONS)
    drawn = strip(fitted["after"], now[few], judge.inputs[few], learn.inputs, before=(fitted["before"], then[few]))
    said = {"retrained": SAME, "steps": rules["steps"], "findings": shown}
    return Shown(told("decoder", said) | {"decoder.csv": _csv(scores, gains)}, {"decoder-strip.png": drawn})


def _images(removal: Forgotten) -> tuple[Samples, Samples]:
    """The audit images that the model still holds, and forgotten ones."""
    plan, gone = removal.plan, set(removal.gone.ids)
    shape, classes = tuple(plan["dataset"]["shape"]), plan["spec"]["classes"]
    blocks = [block for _, block in tables(plan, removal.shelf, removal.keep | gone)]
    judge = samples_of(pa.concat_tables(block.filter(among(block["sample_id"], gone)) for block in blocks), shape, classes)
    chosen = np.random.default_rng(SEED).permutation(len(judge))[:MOST_JUDGED]
    return samples_of(rows_with_role(blocks, "audit"), shape, classes), judge.select(torch.from_numpy(chosen))


def _served(removal: Forgotten, learn: Samples, judge: Samples) -> dict[str, tuple[Tensor, Tensor]]:
    """What each version serves for the images that decoders learn from, and for those that they foretell."""
    core, generator = removal.core, np.random.default_rng(SEED)
    read = [(encode(core, each.inputs, each.labels), each.labels) for each in (learn, judge)]
    versions = {"before": removal.before, "after": removal.after}
    for number in range(REFITS):
        versions[f"other {number + 1}"] = removal.without(removal.statistics, removal.others(generator))
    found = {}
    for name, weights in versions.items():
        own, other = (logits_of_rows(core, weights, rows, labels).float() for rows, labels in read)
        found[name] = own, other
    return found


def _stated(scores: Mapping[str, Scored], gains: Mapping[str, Gain], planted: Gain) -> list[Measured]:
    null = [gain for name, gain in gains.items() if name != "before"]
    what = "what the version before tells of a forgotten image beyond the version after, nats a dimension"
    told, n = saved(gains["before"], null, planted, what), gains["before"].n
    bits = []
    for name, note in (("before", NOT_A_BOUND), ("after", f"{NOT_A_BOUND} {SAME}")):
        metric = f"bits a dimension of a forgotten image, told by the version {name}"
        bits.append(Measured(audit="decoder", access=SERVED, metric=metric, value=scores[name].bits, ci95=None, n=n, note=note))
    return [told, *bits]


def _csv(scores: Mapping[str, Scored], gains: Mapping[str, Gain]) -> bytes:
    rows: list[tuple[Any, ...]] = []
    for name, score in (*scores.items(), ("retrained", scores["after"])):
        found = gains.get(name)
        rows.append((name, score.mean, score.bits, *((found.value, *found.ci95) if found else ("", "", "")), len(score.nats)))
    return table(("told_by", "nats_a_dimension", "bits_a_dimension", "less_than_after_nats", "low", "high", "images"), rows)
