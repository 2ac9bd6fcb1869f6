"""Fashion-MNIST over HTTP, 10,000 core and 50,000 user rows: forgetting 1, 100 and a class equals refitting without them, by hash."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.live import Live

DATA = os.environ.get("EXPUNGE_BENCH_DATA")
CORE = 10_000

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600), pytest.mark.skipif(not DATA, reason="EXPUNGE_BENCH_DATA names no data")]


def rows() -> pa.Table:
    assert DATA
    parts = {name: pq.read_table(Path(DATA) / "fashion_mnist" / f"{name}.parquet") for name in ("train", "test")}
    order = np.random.default_rng(0).permutation(len(parts["train"]))
    role = np.array(["user"] * len(order), dtype=object)
    role[order[:CORE]] = "core"
    columns = {name: pa.concat_arrays([p[name].combine_chunks() for p in parts.values()]) for name in ("sample_id", "label", "image")}
    columns["role"] = pa.array([*role.tolist(), *["audit"] * len(parts["test"])])
    form = {"image_encoding": "raw_uint8", "height": "28", "width": "28", "channels": "1"}
    return pa.table(columns).replace_schema_metadata(form)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    live = Live(tmp_path_factory.mktemp("fashion"))
    yield live
    live.stop()


def fitted(live: Live, table: pa.Table, name: str, directory: Path) -> None:
    pq.write_table(table, directory / "rows.parquet", compression="zstd")
    live.upload(name, (directory / "rows.parquet").read_bytes())
    live.fit(name, name, training={"epochs": 4}, expected_rows=50_000)


@pytest.mark.parametrize("asked", ["one", "hundred", "class"])
def test_forgetting_equals_refitting_without_the_rows(service: Live, tmp_path: Path, asked: str) -> None:
    table = rows()
    users = table.filter(pc.equal(table["role"], "user"))
    of_class = users.filter(pc.equal(users["label"], 3))["sample_id"].to_pylist()
    gone = {"one": users["sample_id"].to_pylist()[:1], "hundred": users["sample_id"].to_pylist()[::500], "class": of_class}[asked]
    fitted(service, table, asked, tmp_path)

    job = service.job(service.forget(asked, ids=gone))
    kept = table.filter(pc.invert(pc.is_in(table["sample_id"], value_set=pa.array(gone))))
    fitted(service, kept, f"{asked}-never", tmp_path)

    report: dict[str, Any] = {"asked": len(gone), "seconds": job["seconds"], "utility": service.version(asked)["utility"]}
    (service.directory / f"{asked}.txt").write_text(repr(report))
    assert service.sha256(asked, "core.safetensors") == service.sha256(f"{asked}-never", "core.safetensors")
    assert service.sha256(asked) == service.sha256(f"{asked}-never")
    assert service.request(job["requests"][0])["dispositions"]["counts"] == {"forgotten": len(gone)}
