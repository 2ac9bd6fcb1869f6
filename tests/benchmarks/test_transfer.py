"""The benchmark of bytes in and out runs from end to end at toy size."""

from __future__ import annotations

import shutil

import pytest

from benchmarks import outcome, transfer
from tests.servers import postgres_bin


def test_transfer_moves_the_same_bytes_by_every_way_in_and_out() -> None:
    if postgres_bin() is None or shutil.which("psql") is None:
        pytest.skip("PostgreSQL (initdb, postgres, psql) is not installed")

    found = transfer.run(3, repeats=1)

    ways = {transfer.STORE, transfer.COPY, transfer.DIRECTORY, transfer.FILE}
    assert found.numbers["bytes"] == 3 << 20
    for direction in ("in_seconds", "out_seconds"):
        assert set(found.numbers[direction]) == ways
        assert all(0 < seconds < 60 for taken in found.numbers[direction].values() for seconds in taken)
    assert transfer.COPY in outcome.show(found)
