"""Coloured digits: as biased as they say, evenly coloured where judged, and an upload that the service takes."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.biased import COLOURS, Biased, Sizes, biased, coloured, colours_of, digits, main, mnist, table, without_values
from models.erase.attribute import label_information
from service.parquet import inspect


@pytest.fixture(scope="module")
def data() -> Biased:
    return digits(0.9)


@pytest.mark.parametrize("rho", [0.99, 0.9, 0.1, 0.0, 1.0])
def test_a_share_rho_of_each_label_has_its_colour_and_the_others_are_equally_common(rho: float) -> None:
    labels = torch.arange(10).repeat_interleave(900)

    colours = colours_of(labels, rho, torch.Generator().manual_seed(0))

    counts = torch.bincount(labels * 10 + colours, minlength=100).view(10, 10)
    own = counts.diagonal()
    others = counts[~torch.eye(10, dtype=torch.bool)]
    assert own.tolist() == [round(rho * 900)] * 10
    assert int(others.max() - others.min()) <= 1
    with pytest.raises(ValueError, match="rho"):
        colours_of(labels, 1.5, torch.Generator())


def test_ink_is_white_and_the_background_has_its_colour() -> None:
    ink = torch.tensor([[[1.0, 0.0], [0.5, 0.0]]])

    image = coloured(ink, torch.tensor([6]))

    assert COLOURS[6] == ("orange", (255, 128, 0))
    assert image[0, :, 0, 0].tolist() == [255, 255, 255]
    assert image[0, :, 0, 1].tolist() == [255, 128, 0]
    assert image[0, :, 1, 0].tolist() == [255, 192, 128]
    assert len({rgb for _, rgb in COLOURS}) == len({name for name, _ in COLOURS}) == 10


def test_digits_are_biased_where_learnt_and_even_where_judged(data: Biased) -> None:
    for rows in (data.core, data.user):
        assert abs(float((rows.values == rows.samples.labels).double().mean()) - 0.9) < 0.03
    assert abs(float((data.audit.values == data.audit.samples.labels).double().mean()) - 0.1) < 0.02
    assert label_information(data.core, 10) > 1.5 > 0.1 > label_information(data.audit, 10)
    assert (len(data.core), len(data.user), len(data.audit)) == (900, 200, 697)
    assert data.core.samples.inputs.shape == (900, 3, 8, 8)


def test_the_background_of_every_picture_is_the_colour_it_is_said_to_have(data: Biased) -> None:
    corners = data.core.samples.inputs[:, :, 0, 0].long()  # never inked

    said = torch.tensor([rgb for _, rgb in COLOURS])[data.core.values]

    assert torch.equal(corners, said)


def test_the_seed_decides_and_no_digit_is_both_learnt_and_judged() -> None:
    again, other, often = digits(0.9), digits(0.9, seed=1), digits(0.9, copies=3)

    assert torch.equal(again.core.samples.inputs, digits(0.9).core.samples.inputs)
    assert not torch.equal(again.core.samples.labels, other.core.samples.labels)
    assert len(often.core) == 2700 and torch.equal(often.core.samples.labels.bincount(), 3 * again.core.samples.labels.bincount())
    ink = torch.zeros(240, 8, 8)
    with pytest.raises(ValueError, match="fewer than asked for"):
        biased(ink, torch.zeros(240).long(), ink, torch.zeros(240).long(), 0.5, Sizes(200, 100, 10), seed=0)


def test_the_file_is_an_upload_that_the_service_takes(data: Biased, tmp_path: Path) -> None:
    path = tmp_path / "digits.parquet"

    assert main(["digits", ".9", str(path)]) == 0

    with path.open("rb") as source:
        layout = inspect(source, max_rows=10_000, max_expansion=100)
    assert (layout.shape, layout.attributes, layout.rows) == ((3, 8, 8), ("colour",), 1797)
    written = pq.read_table(path)
    assert written.equals(table(data))
    assert written.schema.names == ["sample_id", "role", "label", "attr_colour", "image"]
    assert {name: written["role"].to_pylist().count(name) for name in ("core", "user", "audit")} == {"core": 900, "user": 200, "audit": 697}
    first = written["image"].to_pylist()[0]
    assert torch.equal(torch.frombuffer(bytearray(first), dtype=torch.uint8).view(8, 8, 3).permute(2, 0, 1), data.core.samples.inputs[0])
    assert written["attr_colour"].to_pylist()[0] == COLOURS[int(data.core.values[0])][0]


def test_values_taken_away_are_missing(data: Biased) -> None:
    partly = without_values(data.core, 0.3, seed=0)

    assert 0.2 < float((partly.values < 0).double().mean()) < 0.4
    assert (partly.values >= 0).logical_or(partly.values == -1).all()


def test_mnist_is_coloured_the_same_way() -> None:
    if not Path(os.environ.get("EXPUNGE_BENCH_DATA", ".")).joinpath("mnist", "train.parquet").exists():
        pytest.skip("EXPUNGE_BENCH_DATA does not name a folder with mnist/")

    data = mnist(0.99, Sizes(core=500, user=100, audit=300), seed=3)

    assert data.core.samples.inputs.shape == (500, 3, 28, 28)
    assert float((data.core.values == data.core.samples.labels).double().mean()) >= 0.98
    assert torch.equal(data.audit.samples.inputs[:, :, 0, 0].long(), torch.tensor([rgb for _, rgb in COLOURS])[data.audit.values])
