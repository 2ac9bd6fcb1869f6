"""Decoders that go on from one: they differ in what they are told, and find what is told and nothing else."""

from __future__ import annotations

from math import log
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from models.audit import decoder
from models.audit.decoder import Scored
from models.progress import silent
from service.policies import AUDITS
from tests.models.test_decoder import digits, noisy_bits
from workers.failure import Failure
from workers.telling import NOTHING, SHARE, THUMBNAIL, tell, thumbnail

STEPS = AUDITS["audits"]["decoder"]["steps"]


def scored(images: Tensor, known: dict[str, Tensor], learnt: int, steps: int) -> dict[str, Scored]:
    """What decoders told of the first `learnt` images say of the others."""
    fitted = tell(images[:learnt], {name: h[:learnt] for name, h in known.items()}, steps, silent)
    return {name: decoder.nll(one, images[learnt:], known[name][learnt:] if name in known else None) for name, one in fitted.items()}


@pytest.mark.slow
def test_at_the_policy_s_budget_each_saves_what_it_is_told_and_a_constant_saves_nothing() -> None:
    images, labels = digits()
    known = {
        "image": images.flatten(1).float(),
        THUMBNAIL: thumbnail(images),
        "label": one_hot(labels, 10).float(),
        "constant": torch.ones(len(images), 3),
    }

    scores = scored(images, known, 1200, STEPS)

    saved = {name: decoder.gain(scores[NOTHING], score) for name, score in scores.items()}
    assert abs(saved["constant"].value) < 0.005
    assert saved["constant"].ci95[1] < saved["label"].ci95[0] < saved["label"].ci95[1] < saved[THUMBNAIL].ci95[0]
    assert saved[THUMBNAIL].value > 0.1
    assert scores["image"].bits < 0.2  # a twentieth of a bit takes twice the steps


@pytest.mark.slow
def test_with_twice_the_steps_the_image_itself_costs_at_most_a_twentieth_of_a_bit_and_a_constant_gains_nothing() -> None:
    images, _ = digits()

    scores = scored(images, {"image": images.flatten(1).float(), "constant": torch.ones(len(images), 3)}, 1200, 2 * STEPS)

    assert scores["image"].bits <= 0.05
    assert abs(scores[NOTHING].bits - scores["constant"].bits) <= 0.02


@pytest.mark.slow
def test_trained_longer_any_number_of_revealed_bits_is_found() -> None:
    images, bits = noisy_bits(4000)

    scores = scored(images, {str(k): bits[:, :k].float() for k in (1, 2, 4)}, 3000, 6 * STEPS)

    for k in (1, 2, 4):
        assert decoder.gain(scores[NOTHING], scores[str(k)]).value * 4 == pytest.approx(k * log(2), rel=0.03)


def test_the_first_takes_its_share_of_the_progress_and_the_others_equal_ones_to_the_end() -> None:
    images, labels = digits()
    seen: list[tuple[str, float]] = []

    fitted = tell(images[:64], {"label": one_hot(labels[:64], 10).float()}, 4, lambda phase, done: seen.append((phase, done)))

    assert set(fitted) == {NOTHING, "label"}
    assert {phase for phase, _ in seen} == {"decoder"}
    done = [part for _, part in seen]
    assert done == sorted(done) and len(done) == 4 + 2 * (4 // SHARE)
    assert done[3] == pytest.approx(SHARE / (SHARE + 3)) and done[-1] == pytest.approx((SHARE + 2) / (SHARE + 3))


def test_a_decoder_that_diverges_is_left_out_if_it_can_be_spared_and_else_ends_the_audit_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = digits()
    known = {"served": one_hot(labels[:64], 10).float(), "retrained 1": torch.full((64, 3), torch.nan)}
    whole = decoder.fit

    def fitted(images: Tensor, h: Tensor | None, how: Any, **more: Any) -> Any:
        if h is not None and bool(h.isnan().any()):
            raise ValueError("the decoder diverged")
        return whole(images, h, how, **more)

    monkeypatch.setattr(decoder, "fit", fitted)

    assert set(tell(images[:64], known, 4, silent, spare={"retrained 1"})) == {NOTHING, "served"}
    with pytest.raises(Failure) as ended:
        tell(images[:64], known, 4, silent)
    assert (ended.value.code, "told retrained 1" in ended.value.detail) == ("decoder", True)
