"""The attempts of `auto`, in an order that is data."""

from __future__ import annotations

from attributed import mixed

from models.erase.auto import is_biased, points
from models.erase.irene import Irene
from models.erase.leace import Leace

ROWS = mixed(300)


def test_the_bottleneck_comes_before_the_network_and_leace_last_where_there_is_room_for_it() -> None:
    found = points(ROWS, 2)

    scopes = [point.scope for point in found]
    assert scopes == sorted(scopes)
    assert {"bottleneck", "network"} == set(scopes)
    assert all(isinstance(point.how, Irene) and point.leace_last == (point.how.code != 0) for point in found)
    assert isinstance(found[0].how, Irene) and found[0].how.code == 0 and found[0].how.head == "mlp"


def test_a_linear_claim_takes_one_step() -> None:
    assert [type(point.how) for point in points(ROWS, 2, linear=True)] == [Leace]


def test_names_are_unique_and_later_attempts_press_harder() -> None:
    found = points(ROWS, 2)

    gammas = [point.how.gamma for point in found if isinstance(point.how, Irene) and point.scope == "bottleneck"]
    assert len({point.name for point in found}) == len(found)
    assert gammas == sorted(gammas)


def test_where_the_attribute_tells_the_label_the_network_is_trained_first_and_every_cell_counts() -> None:
    told = mixed(300, values=3, agree=0.98)

    found = points(told, 3)

    assert is_biased(told, 3) and not is_biased(ROWS, 2)
    assert found[0].scope == "network" and not found[0].leace_last
    assert [isinstance(point.how, Irene) and bool(point.how.relearn) for point in found][:3] == [True, True, False]
    assert not any(isinstance(point.how, Irene) and point.how.relearn for point in points(ROWS, 2))
    assert all(isinstance(point.how, Irene) and point.how.balanced_task and not point.how.taught for point in found)
    assert not any(isinstance(point.how, Irene) and point.how.balanced_task for point in points(ROWS, 2))
