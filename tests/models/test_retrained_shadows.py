"""Shadows that are trained again, core and all, against the truth: a retrained model passes, and the one before does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from stand_in import DIGITS, QUICK, digits

from models.audit.membership import attack, verdict
from models.audit.retrained_shadows import Rows, affordable, joined, mislabelled, scores, shadows
from models.data import Samples
from models.forget.retrain import Recipe, fit
from models.nets import Architecture

RECIPE = Recipe(architecture=DIGITS, training=replace(QUICK, epochs=3), expected_rows=100, ridge=10.0)


def wrong(samples: Samples, seed: int) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    return Samples(samples.inputs, (samples.labels + torch.randint(1, 10, (len(samples),), generator=generator)) % 10, samples.ids)


def rows(seed: int = 0) -> tuple[Rows, Rows]:
    """Kept rows, and mislabelled ones of both kinds that go."""
    core, user = digits(0, 220, "core"), digits(400, 520, "user")
    gone = Rows(wrong(core.select(range(20)), seed), wrong(user.select(range(20)), seed))
    return Rows(core.select(range(20, 220)), user.select(range(20, 120))), gone


def test_a_retrained_model_passes_and_the_one_before_is_refused_though_both_cores_differ() -> None:
    kept, gone = rows()
    canaries = Rows(*(mislabelled(part, classes=10, seed=1, count=15) for part in (kept.core, kept.user)))
    both = kept.plus(gone)
    before, after = fit(RECIPE, both.core, both.user), fit(RECIPE, kept.core, kept.user)

    played = shadows(RECIPE, kept, gone, canaries, seed=0)

    power = attack(played.planted, played.canaries, seed=0, resamples=20)
    found = {name: attack(scores(model.core, model.weights, gone), played.targets, seed=0, resamples=20)
             for name, model in (("before", before), ("after", after))}  # fmt: skip
    answers = {name: verdict(one, power) for name, one in found.items()}
    assert {name: (answer.passed, answer.void) for name, answer in answers.items()} == {"before": (False, False), "after": (True, False)}
    assert found["before"].auc > 0.8 > 0.65 > found["after"].auc


def test_scores_are_of_core_rows_before_user_rows_each_under_the_label_it_was_trained_with() -> None:
    kept, gone = rows()
    model = fit(RECIPE, kept.core, kept.user)

    found = scores(model.core, model.weights, gone)

    alone = [
        scores(model.core, model.weights, Rows(*pair)) for pair in ((gone.core, gone.user.select([])), (gone.core.select([]), gone.user))
    ]
    assert torch.equal(found, torch.cat(alone))
    assert len(joined(gone.core, gone.user)) == len(gone) == 40


def test_canaries_are_copies_under_labels_that_are_all_wrong() -> None:
    kept, _ = rows()

    copies = mislabelled(kept.user, classes=10, seed=3, count=30)

    places = [kept.user.ids.index(name.removeprefix("canary ")) for name in copies.ids]
    assert torch.equal(copies.inputs, kept.user.inputs[places])
    assert not bool((copies.labels == kept.user.labels[places]).any()) and int(copies.labels.max()) < 10


@pytest.mark.parametrize(("name", "shape", "rows", "fits"), [("convnet", (1, 8, 8), 450, True), ("convnet", (1, 28, 28), 2000, False)])
def test_digits_can_be_audited_so_and_fashion_images_cannot(name: str, shape: tuple[int, ...], rows: int, fits: bool) -> None:
    recipe = replace(RECIPE, architecture=Architecture(name=name, input_shape=shape, classes=10), training=replace(QUICK, epochs=40))

    assert affordable(recipe, rows) == fits
