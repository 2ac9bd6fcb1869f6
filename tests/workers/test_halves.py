"""The null of a version's scores: refits on the two halves of each division, which share no user sample and are of equal size."""

from __future__ import annotations

import pyarrow as pa
import torch

from models.data import Samples
from models.forget.refit import refit, weights_of
from models.linear.core import encode, plain_core
from models.linear.statistics import Rows, digest, merge, subtract, zeros
from models.nets import Architecture
from workers.artifacts import in_final_half
from workers.halves import DIVISIONS, NOBODY, divisions, of_fixed_features
from workers.refitting import refitted

CORE = plain_core(Architecture(name="linear", input_shape=(5,), classes=3), range=8.0, ridge=1.0, target=5.0)
GENERATOR = torch.Generator().manual_seed(0)
SAMPLES = Samples(torch.randn(60, 5, generator=GENERATOR), torch.arange(60) % 3, tuple(f"s-{i}" for i in range(60)))
USERS = encode(CORE, SAMPLES.inputs, SAMPLES.labels)
BASE = zeros(CORE.d, CORE.classes)


def part(places: torch.Tensor) -> Rows:
    return Rows(USERS.features[places], USERS.targets[places])


def test_both_refits_of_a_division_are_fitted_on_its_halves_and_on_nothing_else() -> None:
    found = of_fixed_features(CORE, BASE, USERS)

    assert len(found.pairs) == DIVISIONS and len(found.weights) == 2 * DIVISIONS
    for (one, other), (first, second) in zip(found.pairs, divisions(len(USERS)), strict=True):
        assert not set(first.tolist()) & set(second.tolist()) and len(first) == len(second) == 30
        assert torch.equal(one, refit(CORE, BASE, [part(first)]).weights)
        assert torch.equal(other, refit(CORE, BASE, [part(second)]).weights)
    assert len({tuple(weights.flatten().tolist()) for weights in found.weights}) == 2 * DIVISIONS


def test_an_odd_row_is_in_neither_half_and_of_a_single_one_there_are_none() -> None:
    for first, second in divisions(7):
        assert len(first) == len(second) == 3 and len({*first.tolist(), *second.tolist()}) == 6
    alone = of_fixed_features(CORE, BASE, part(torch.tensor([0])))

    assert alone.pairs == () and alone.why == NOBODY


def test_a_whole_model_s_halves_add_up_to_it_and_are_chosen_by_the_rows_ids() -> None:
    table = pa.table({
        "sample_id": list(SAMPLES.ids),
        "role": ["user"] * len(SAMPLES),
        "label": SAMPLES.labels.tolist(),
        "input": pa.FixedSizeListArray.from_arrays(pa.array(SAMPLES.inputs.flatten().tolist(), pa.float32()), 5),
    })  # fmt: skip
    nobody = Samples(torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64), ())
    blocks = [(0, table.slice(0, 25)), (1, table.slice(25))]

    whole = refitted(CORE, nobody, lambda: blocks, [0, 1, 2], progress=lambda number: None)
    one, other = whole.halves()

    second = torch.tensor([in_final_half(i) for i in SAMPLES.ids])
    places = torch.arange(60)
    assert digest(whole.statistics) == digest(merge(one.statistics, other.statistics)) == digest(refit(CORE, BASE, [USERS]).statistics)
    assert torch.equal(one.weights, refit(CORE, BASE, [part(places[~second])]).weights)
    assert torch.equal(other.weights, weights_of(CORE, subtract(whole.statistics, part(places[~second]))))
    assert 10 < int(second.sum()) < 50
    for few in (0, 1):
        part_of = [(0, table.slice(0, few))]
        assert refitted(CORE, nobody, lambda part_of=part_of: part_of, [0, 1, 2], progress=lambda number: None).halves() == ()
