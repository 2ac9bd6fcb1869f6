"""The attempts of `auto`, in an order that is data."""

from __future__ import annotations

from models.erase.auto import points
from models.erase.irene import Irene
from models.erase.leace import Leace


def test_the_bottleneck_comes_before_the_network_and_leace_last() -> None:
    found = points(3000)

    scopes = [point.scope for point in found]
    assert scopes == sorted(scopes)
    assert {"bottleneck", "network"} == set(scopes)
    assert all(isinstance(point.how, Irene) and point.leace_last for point in found)
    assert isinstance(found[0].how, Irene) and found[0].how.code == 0 and found[0].how.head == "mlp"


def test_a_linear_claim_takes_one_step() -> None:
    assert [type(point.how) for point in points(3000, linear=True)] == [Leace]


def test_names_are_unique_and_later_attempts_press_harder() -> None:
    found = points(3000)

    gammas = [point.how.gamma for point in found if isinstance(point.how, Irene) and point.scope == "bottleneck"]
    assert len({point.name for point in found}) == len(found)
    assert gammas == sorted(gammas)
