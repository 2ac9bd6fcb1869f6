"""The decoder's audit of an exact removal: how well forgotten images are foretold from what each version serves for them.

Decoders of one budget, trained on audit images alone, each told the answers of one version: of the version before; of the version after,
which by its hash is the retrained one; of that one refitted without as many other rows, which gives the null. The planted leak is a
thumbnail of the image: who is told it must be seen to do better than who is told nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from models.audit import decoder
from models.audit.decoder import Decoder, Decoding, Gain, Scored
from models.audit.findings import SERVED
from models.data import Samples
from models.guarantee import Measured, Power
from models.linear.core import encode, logits_of_rows
from models.progress import Progress
from service.auditing import POLICY
from workers.artifacts import among, rows_with_role, samples_of
from workers.attributed import tables
from workers.audit_figures import table
from workers.auditing import document
from workers.forgotten import Forgotten, Shown, told
from workers.judging import SEED
from workers.strips import NOT_A_BOUND, strip, thumbnail

MOST_JUDGED = 200
"""Forgotten images that are foretold: of more, a random choice."""

SAME = "The version after equals the retrained one to the bit, by its hash: what is served for an image is the same, so its score is too."


def decoded(removal: Forgotten, progress: Progress) -> Shown:
    """Foretell the forgotten images from what the versions before and after serve."""
    learn, judge = _images(removal)
    if len(learn) < 2 * decoder.HELD_OUT:
        return Shown(told("decoder", {"withheld": f"Fewer than {2 * decoder.HELD_OUT} audit images: a decoder cannot learn from so few."}))
    rules, shape = POLICY["audits"]["decoder"], tuple(learn.inputs.shape[1:])
    how = Decoding(steps=rules["steps"], levels=decoder.default_decoding((shape[0], shape[1], shape[2])).levels, seed=SEED)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    knows = _told_of(removal, learn, judge)
    fitted: dict[str, Decoder] = {}
    scores: dict[str, Scored] = {}
    for place, (name, (own, other)) in enumerate(knows.items()):

        def part(_: str, done: float, place: int = place) -> None:
            progress("", (place + done) / (len(knows) + 1))

        fitted[name] = decoder.fit(learn.inputs, own, how, device=device, progress=part)
        scores[name] = decoder.nll(fitted[name], judge.inputs, other)
    gains = {name: decoder.gain(scores["after"], scores[name]) for name in ("before", "other")}
    planted = decoder.gain(scores["nothing"], scores["thumbnail"])
    shown = [document(one) for one in _stated(scores, gains, planted)]
    few = slice(0, rules["pictures"])
    (_, then), (_, now) = knows["before"], knows["after"]
    assert then is not None and now is not None
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


def _told_of(removal: Forgotten, learn: Samples, judge: Samples) -> dict[str, tuple[Tensor | None, Tensor | None]]:
    """What each decoder is told of the images that it learns from, and of those that it foretells."""
    core = removal.core
    read = [(encode(core, each.inputs, each.labels), each.labels) for each in (learn, judge)]
    others = removal.others(np.random.default_rng(SEED))
    versions = {"before": removal.before, "after": removal.after, "other": removal.without(removal.statistics, others)}
    found: dict[str, tuple[Tensor | None, Tensor | None]] = {"nothing": (None, None)}
    for name, weights in versions.items():
        own, other = (logits_of_rows(core, weights, rows, labels).float() for rows, labels in read)
        found[name] = own, other
    return found | {"thumbnail": (thumbnail(learn.inputs), thumbnail(judge.inputs))}


def _stated(scores: Mapping[str, Scored], gains: Mapping[str, Gain], planted: Gain) -> list[Measured]:
    found, null = gains["before"], gains["other"]
    limit = max(abs(bound) for bound in null.ci95)  # which of two refits comes out ahead is chance
    caught = planted.ci95[0] > limit
    power, n = Power(planted=1, caught=int(caught)), found.n
    seen = f"a planted thumbnail of the image saves {planted.value:.3g}" if caught else "not even a planted thumbnail of the image was seen"
    saved = Measured(
        audit="decoder",
        access=SERVED,
        metric="what the version before tells of a forgotten image beyond the version after, nats a dimension",
        value=found.value,
        ci95=found.ci95,
        n=n,
        null=(null.value, limit),
        power=power,
        void=not caught,
        note=f"{NOT_A_BOUND} The null is a retrained version, refitted without as many others; {seen}.",
    )
    bits = []
    for name, note in (("before", NOT_A_BOUND), ("after", f"{NOT_A_BOUND} {SAME}")):
        metric = f"bits a dimension of a forgotten image, told by the version {name}"
        bits.append(Measured(audit="decoder", access=SERVED, metric=metric, value=scores[name].bits, ci95=None, n=n, note=note))
    return [saved, *bits]


def _csv(scores: Mapping[str, Scored], gains: Mapping[str, Gain]) -> bytes:
    rows: list[tuple[Any, ...]] = []
    for name, score in (*scores.items(), ("retrained", scores["after"])):
        found = gains.get(name)
        rows.append((name, score.mean, score.bits, *((found.value, *found.ci95) if found else ("", "", "")), len(score.nats)))
    return table(("told_by", "nats_a_dimension", "bits_a_dimension", "less_than_after_nats", "low", "high", "images"), rows)
