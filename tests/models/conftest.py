"""One thread for every test, and one fitted core for all of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from linearised import Linearised, make_linearised
from stand_in import Fixed, make_fixed


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Tests run beside other work: one thread is faster, and the thread count is a part of what training computes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def fixed() -> Fixed:
    return make_fixed()


@pytest.fixture(scope="session")
def linearised() -> Linearised:
    return make_linearised()
