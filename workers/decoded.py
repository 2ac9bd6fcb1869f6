"""The decoder's audit of an exact removal: how well forgotten images are foretold from what each version serves for them.

Decoders learn from audit images alone. Two of one budget go on from one that is told nothing: one is told the answers of the version
before, the other those of the version after, which by its hash is the retrained one. Both then foretell the forgotten images from what each
version serves, and a version's score is the mean of theirs: what differs between versions is what they serve, and not the luck of a
training. The null are refits without as many other rows. The planted leak is a thumbnail of the image: who is told it must be seen to do
better than who is told nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from models.audit import decoder
from models.audit.decoder import Gain, Scored
from models.audit.findings import mean_and_largest, shown
from models.data import Samples
from models.guarantee import Measured
from models.linear.core import encode, logits_of_rows
from models.progress import Progress
from service.policies import AUDITS
from workers.artifacts import Shelf, among, rows_with_role, samples_of
from workers.attributed import tables
from workers.audit_figures import table
from workers.beyond import MOST_JUDGED, NOT_A_BOUND, REFITS, beyond, saved
from workers.documents import document
from workers.forgotten import Forgotten, Shown, told
from workers.judging import SEED
from workers.strips import strip
from workers.telling import NOTHING, THUMBNAIL, tell, thumbnail

TAUGHT = ("before", "after")
"""Whose answers a decoder is trained on."""

SAME = "The version after equals the retrained one to the bit, by its hash: what is served for an image is the same, so its score is too."


TOO_FEW = Shown(
    told("decoder", {"withheld": f"Fewer than {2 * decoder.HELD_OUT} audit images: a decoder cannot learn from so few."}), fitted=False
)


@dataclass(frozen=True)
class Foretold:
    """What decoders are told of which images."""

    learn: Samples
    """Audit images."""
    judge: Samples
    """Forgotten ones."""
    served: Mapping[str, tuple[Tensor, Tensor]]
    """What each version serves for either: before, after, and refits without others besides, `other 1` and on."""
    than: str
    """The version that others are compared with."""
    seen: tuple[str, ...]
    """Versions of which is said what they tell beyond that one."""
    note: str = ""
    """Of that version, in a sentence."""


def decoded(removal: Forgotten, progress: Progress) -> Shown:
    """Foretell the forgotten images from what the versions before and after serve."""
    learn, judge = images_of(removal.plan, removal.shelf, removal.keep, set(removal.gone.ids))
    if len(learn) < 2 * decoder.HELD_OUT:
        return TOO_FEW
    one = Foretold(learn, judge, _served(removal, learn, judge), than="after", seen=("before",), note=SAME)
    return foretold(one, {"retrained": SAME}, progress)


def foretold(one: Foretold, said: Mapping[str, Any], progress: Progress) -> Shown:
    """Train the decoders, and have them foretell the forgotten images from what each version serves."""
    learn, judge = one.learn, one.judge
    rules = AUDITS["audits"]["decoder"]
    known = {THUMBNAIL: thumbnail(learn.inputs)} | {name: one.served[name][0] for name in TAUGHT}
    fitted = tell(learn.inputs, known, rules["steps"], progress)
    scores = {
        NOTHING: decoder.nll(fitted[NOTHING], judge.inputs, None),
        THUMBNAIL: decoder.nll(fitted[THUMBNAIL], judge.inputs, thumbnail(judge.inputs)),
    }
    told_of = {name: pair[1] for name, pair in one.served.items()}
    told_scores, gains = beyond([fitted[name] for name in TAUGHT], told_of, judge.inputs, than=one.than)
    planted = decoder.gain(scores[NOTHING], scores[THUMBNAIL])
    scores |= told_scores
    shown = [document(each) for each in _stated(one, scores, gains, planted)]
    few = slice(0, rules["pictures"])
    then, now = (one.served[name][1] for name in TAUGHT)
    drawn = strip(fitted["after"], now[few], judge.inputs[few], learn.inputs, before=(fitted["before"], then[few]))
    files = told("decoder", {**said, "steps": rules["steps"], "findings": shown}) | {"decoder.csv": _csv(one.than, scores, gains)}
    return Shown(files, {"decoder-strip.png": drawn})


def images_of(plan: Mapping[str, Any], shelf: Shelf, keep: Set[str], gone: Set[str]) -> tuple[Samples, Samples]:
    """The audit images that the model still holds, and forgotten ones."""
    shape, classes = tuple(plan["dataset"]["shape"]), plan["spec"]["classes"]
    blocks = [block for _, block in tables(plan, shelf, {*keep, *gone})]
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


def _stated(one: Foretold, scores: Mapping[str, Scored], gains: Mapping[str, Gain], planted: Gain) -> list[Measured]:
    others = [name for name in gains if name.startswith("other ")]
    null, n = [gains[name] for name in others], planted.n
    than = "the version after" if one.than == "after" else f"a {one.than} one"
    stated = []
    for name in one.seen:
        what = f"what the version {name} tells of a forgotten image beyond {than}, nats a dimension"
        stated.append(saved(gains[name], null, planted, what))
    bits = mean_and_largest([scores[name].bits for name in others])
    for name in dict.fromkeys((*TAUGHT, one.than)):
        version = f"a {name} version" if name == "retrained" else f"the version {name}"
        note = f"{NOT_A_BOUND} {one.note}" if name == one.than else NOT_A_BOUND
        metric = f"bits a dimension of a forgotten image, told by {version}"
        stated.append(shown("decoder", metric, scores[name].bits, n, null=bits, note=note.strip()))
    return stated


def _csv(than: str, scores: Mapping[str, Scored], gains: Mapping[str, Gain]) -> bytes:
    rows: list[tuple[Any, ...]] = []
    same = (("retrained", scores["after"]),) if than == "after" else ()
    for name, score in (*scores.items(), *same):
        found = gains.get(name)
        rows.append((name, score.mean, score.bits, *((found.value, *found.ci95) if found else ("", "", "")), len(score.nats)))
    return table(("told_by", "nats_a_dimension", "bits_a_dimension", f"less_than_{than}_nats", "low", "high", "images"), rows)
