"""Audits' words: a measure that saw no planted leak is void and says so, whatever else it found."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from expunge import audited
from models.audit import decoder
from models.audit.decoder import Scored, gain
from models.data import Samples
from models.guarantee import Measured, Power
from workers import decoded
from workers.beyond import beyond
from workers.documents import document
from workers.null import Null
from workers.strips import _stated, nearest, png
from workers.telling import decoding

NO_ROWS = [Samples(torch.zeros(0, 1, 8, 8, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64), ())] * 2
NATS = torch.linspace(100, 200, 50, dtype=torch.float64)


def no_rows(rows: Samples) -> Any:
    raise AssertionError("nothing is read to say what was found")


def stated(*, thumbnail: float, again: bool = True) -> list[dict[str, Any]]:
    """What a decoder's audit says if a planted thumbnail saves so many nats an image."""
    jitter = torch.sin(torch.arange(50, dtype=torch.float64))
    scores = {
        "nothing": Scored(NATS, 64),
        "served": Scored(NATS - 5 + jitter, 64),
        "shuffled": Scored(NATS + jitter, 64),
        "thumbnail": Scored(NATS - thumbnail + jitter, 64),
        "retrained 1": Scored(NATS - 4 + jitter, 64),
        "retrained 2": Scored(NATS - 6 + jitter, 64),
    }
    if not again:
        scores = {name: score for name, score in scores.items() if "retrained" not in name}
    gains = {name: gain(scores["nothing"], score) for name, score in scores.items() if name != "nothing"}
    null = Null(((no_rows, NATS),) * 8, "refits") if again else Null((), "refits", "None are there.")
    return [document(one) for one in _stated(scores, gains, null)]


def test_a_decoder_that_sees_a_planted_thumbnail_reports_and_one_that_does_not_is_void_in_words() -> None:
    seen, unseen = stated(thumbnail=60)[0], stated(thumbnail=0)[0]

    assert seen["answer"] == "reported" and "was seen" in str(seen["says"])
    assert unseen["answer"] == "void" and "void" in str(unseen["says"])
    assert unseen["power"] == {"planted": 1, "caught": 0}


def test_what_a_decoder_finds_stands_beside_retrained_versions_and_who_is_told_of_other_images_is_a_figure_of_its_own() -> None:
    told, own, bits = stated(thumbnail=60)
    alone = stated(thumbnail=60, again=False)

    saved = {name: (5 - float(torch.sin(torch.arange(50.0)).mean())) / 64 + more / 64 for name, more in (("1", -1), ("2", 1), ("own", 0))}
    assert float(told["value"]) == pytest.approx(saved["own"], rel=1e-4)
    assert [float(told["null"][end]) for end in ("mean", "limit")] == pytest.approx([saved["own"], saved["2"]], rel=1e-4)
    assert abs(float(own["value"])) < 0.001 < float(told["value"])
    assert float(bits["null"]["limit"]) > float(bits["value"]) == pytest.approx(float(bits["null"]["mean"]))
    assert [one["null"] for one in alone] == [None] * 3 and "None are there." in str(alone[0]["says"])
    assert all("over 2 refits: mean and largest. Each has a decoder" in str(one["says"]) for one in (told, bits))


@pytest.mark.parametrize(("thumbnail", "answer"), [(20.0, "reported"), (3.0, "void")])
def test_a_removal_s_decoder_is_void_unless_a_thumbnail_saves_more_than_any_refit_differs(thumbnail: float, answer: str) -> None:
    jitter = torch.sin(torch.arange(50, dtype=torch.float64))
    saves = {"nothing": 0.0, "thumbnail": thumbnail, "before": 1.0, "after": 0.0, "other 1": 0.5, "other 2": -6.4}
    scores = {name: Scored(NATS - saved - jitter * number, 64) for number, (name, saved) in enumerate(saves.items())}
    gains = {name: gain(scores["after"], scores[name]) for name in ("before", "other 1", "other 2")}

    one = decoded.Foretold(*NO_ROWS, {}, than="after", seen=("before",), note="What it is.")
    said, *bits = map(document, decoded._stated(one, scores, gains, gain(scores["nothing"], scores["thumbnail"])))

    ends = [abs(bound) for name in ("other 1", "other 2") for bound in gains[name].ci95]
    assert said["answer"] == answer and said["power"] == {"planted": 1, "caught": int(answer == "reported")}
    assert float(said["null"]["limit"]) == pytest.approx(max(ends)) and max(ends) > 0.1
    assert float(said["null"]["mean"]) == pytest.approx((gains["other 1"].value + gains["other 2"].value) / 2)
    assert float(said["value"]) == pytest.approx(gains["before"].value)
    assert [float(each["value"]) for each in bits] == pytest.approx([scores[name].bits for name in ("before", "after")])
    others = [scores[name].bits for name in ("other 1", "other 2")]
    assert all([float(each["null"][end]) for end in ("mean", "limit")] == pytest.approx([sum(others) / 2, max(others)]) for each in bits)
    assert ["What it is." in each["says"] for each in bits] == [False, True]


def test_a_release_s_decoder_tells_of_both_versions_beyond_a_retrained_one() -> None:
    saves = {"nothing": 0.0, "thumbnail": 20.0, "before": 2.0, "after": 1.0, "retrained": 0.5, "other 1": 0.5, "other 2": 0.6}
    scores = {name: Scored(NATS - saved, 64) for name, saved in saves.items()}
    gains = {name: gain(scores["retrained"], scores[name]) for name in ("before", "after", "other 1", "other 2")}
    one = decoded.Foretold(*NO_ROWS, {}, than="retrained", seen=("before", "after"))

    said = [document(each) for each in decoded._stated(one, scores, gains, gain(scores["nothing"], scores["thumbnail"]))]

    assert [each["metric"] for each in said] == [
        "what the version before tells of a forgotten image beyond a retrained one, nats a dimension",
        "what the version after tells of a forgotten image beyond a retrained one, nats a dimension",
        *(f"bits a dimension of a forgotten image, told by {name}" for name in ("the version before", "the version after",
                                                                                "a retrained version")),
    ]  # fmt: skip
    assert [float(each["value"]) for each in said[:2]] == pytest.approx([1.5 / 64, 0.5 / 64])
    assert all(each["null"] is not None for each in said)


def test_versions_are_told_apart_by_the_same_decoders_so_that_equal_answers_save_exactly_nothing() -> None:
    images = torch.randint(0, 256, (60, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    first, second = (torch.randn(60, 3, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    how = decoding(images, 4)
    decoders = [decoder.fit(images[:40], each[:40], how) for each in (first, second)]
    served = {"one": first[40:], "same": first[40:].clone(), "other": second[40:]}

    scores, gains = beyond(decoders, served, images[40:], than="one")

    assert set(gains) == {"same", "other"}
    assert (gains["same"].value, gains["same"].ci95) == (0.0, (0.0, 0.0)) and gains["other"].value != 0
    alone = [decoder.nll(each, images[40:], served["other"]).nats for each in decoders]
    assert torch.allclose(scores["other"].nats, (alone[0] + alone[1]) / 2)


def test_every_answer_that_is_written_follows_from_the_numbers_by_the_statement_s_own_rule() -> None:
    base = {"audit": "a", "access": "b", "metric": "c", "value": 0.1, "ci95": None, "n": 30}
    power = Power(planted=2, caught=2)
    cases = [
        Measured(**base),  # type: ignore[arg-type]
        Measured(**base, threshold=0.2, passed=True, power=power),  # type: ignore[arg-type]
        Measured(**base | {"value": 0.3}, threshold=0.2, passed=False, power=power),  # type: ignore[arg-type]
        Measured(**base, threshold=0.2, passed=False, power=Power(planted=2, caught=0), void=True),  # type: ignore[arg-type]
    ]

    written = [document(case) for case in cases]

    assert [one["answer"] for one in written] == ["reported", "passed", "refused", "void"]
    assert all(one["answer"] in audited.answer_of(one) for one in written)
    assert audited.whole(one["answer"] for one in written) == "void"


def test_the_nearest_image_is_the_nearest_and_pictures_of_the_same_images_are_the_same_bytes() -> None:
    others = torch.stack([torch.full((1, 4, 4), value, dtype=torch.uint8) for value in (10, 100, 200)])
    images = torch.stack([torch.full((1, 4, 4), value, dtype=torch.uint8) for value in (90, 20)])

    found = nearest(images, others)

    assert found[:, 0, 0, 0].tolist() == [100, 10]
    assert png([images, found]) == png([images, found])
    assert png([images, found]) != png([found, images])
