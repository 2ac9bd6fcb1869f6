"""Bad uploads and models that cannot be: a clear error that names the place, and nothing lost or left."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save

from tests.digits import Digits, parquet
from tests.live import Live

MARK = "rosa-luxemburg"


def post(live: Live, data: bytes, name: str | None = None) -> Any:
    return live.client.post("/datasets", params={"name": name or uuid.uuid4().hex[:12]}, content=data)


def changed(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


def small(rows: int = 40) -> dict[str, Any]:
    return {
        "sample_id": [f"{MARK}-{i}" for i in range(rows)],
        "role": ["core", "user"] * (rows // 2),
        "label": [i % 2 for i in range(rows)],
    }


def test_broken_files_are_refused_at_once(live: Live, upload: bytes) -> None:
    for data in (b"", b"PAR1", b"x" * 1000, upload[:-10], upload[: len(upload) // 2], upload[100:]):
        answer = post(live, data)
        assert (answer.status_code, answer.json()["code"]) == (422, "parquet_unreadable")
    damaged = bytearray(upload)
    damaged[100:4000] = bytes(3900)
    assert post(live, bytes(damaged)).status_code == 422


def test_wrong_columns_are_named(live: Live, data: Digits, tmp_path: Path) -> None:
    table, path = data.table(), tmp_path / "t.parquet"
    ids, roles = list(data.ids), list(data.roles)
    cases: list[tuple[pa.Table, str, str]] = [
        (table.drop_columns(["label"]), "column_missing", "column:label"),
        (table.drop_columns(["image"]), "column_missing", "column:image"),
        (table.append_column("secret_note", pa.array(ids)), "column_unknown", "column:6"),
        (changed(table, "sample_id", pa.array([ids[1], *ids[1:]])), "sample_id_duplicate", "column:sample_id"),
        (changed(table, "sample_id", pa.array([None, *ids[1:]])), "null", "column:sample_id"),
        (changed(table, "sample_id", pa.array(["", *ids[1:]])), "sample_id", "column:sample_id"),
        (changed(table, "sample_id", pa.array(range(len(ids)))), "column_type", "column:sample_id"),
        (changed(table, "role", pa.array([*roles[:5], "boss", *roles[6:]])), "role", "column:role"),
        (changed(table, "label", pa.array([0.5] * len(ids))), "column_type", "column:label"),
        (table.replace_schema_metadata({}), "metadata_missing", "column:image"),
        (table.replace_schema_metadata({**table.schema.metadata, b"height": b"-8"}), "metadata_missing", "column:image"),
        (table.slice(0, 0), "row_count", ""),
    ]

    for wrong, code, pointer in cases:
        answer = post(live, parquet(wrong, path))
        assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text
        assert [e["pointer"] for e in answer.json().get("errors", [])] == ([pointer] if pointer else [])
        assert ids[1] not in answer.text and "boss" not in answer.text and "secret" not in answer.text


@pytest.mark.parametrize(
    ("kind", "code", "row"),
    [("nan", "features_not_finite", 17), ("inf", "features_not_finite", 17), ("null", "features_not_finite", 17),
     ("png", "image_undecodable", 3), ("size", "image_shape", 5)],
)  # fmt: skip
def test_rows_that_cannot_be_used_end_the_job_with_their_number(live: Live, tmp_path: Path, kind: str, code: str, row: int) -> None:
    columns, rows = small(), 40
    if kind in ("nan", "inf", "null"):
        values: list[Any] = np.ones((rows, 4), np.float32).tolist()
        values[17] = None if kind == "null" else [1.0, float(kind), 1.0, 1.0]
        table = pa.table(columns | {"features": pa.array(values, pa.list_(pa.float32(), 4))})
    else:
        images = [bytes(64)] * rows if kind == "size" else [b"not an image"] * rows
        if kind == "size":
            images[5] = bytes(63)
        else:
            images[:3] = [png()] * 3
        table = pa.table(columns | {"image": pa.array(images, pa.binary())}).replace_schema_metadata(
            {"image_encoding": "raw_uint8" if kind == "size" else "png", "height": "8", "width": "8", "channels": "1"})  # fmt: skip
    name = uuid.uuid4().hex[:12]

    job = live.job(post(live, parquet(table, tmp_path / "t.parquet"), name), state="failed")
    dataset = live.client.get(f"/datasets/{name}").json()

    assert (job["error"]["code"], job["error"]["row"]) == (code, row)
    assert (dataset["state"], dataset["error"]) == ("failed", job["error"])
    assert MARK not in str(job) + str(dataset) + live.log


def png() -> bytes:
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.new("L", (8, 8)).save(out, "PNG")
    return out.getvalue()


def test_a_small_file_that_would_become_a_large_memory_is_refused(live: Live, tmp_path: Path) -> None:
    rows = 20_000
    table = pa.table({"sample_id": [str(i) for i in range(rows)], "role": ["user"] * rows, "label": [0] * rows,
                      "image": pa.array([bytes(10_000)] * rows, pa.binary())})  # fmt: skip
    table = table.replace_schema_metadata({"image_encoding": "raw_uint8", "height": "100", "width": "100", "channels": "1"})

    answer = post(live, parquet(table, tmp_path / "bomb.parquet"))

    assert (answer.status_code, answer.json()["code"]) == (422, "expansion")


def test_a_name_is_taken_once_and_a_refused_upload_frees_its_key(live: Live, upload: bytes) -> None:
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    broken = live.client.post("/datasets?name=again", content=upload[:-5], headers=headers)
    good = live.client.post("/datasets?name=again", content=upload, headers=headers)
    same = live.client.post("/datasets?name=again", content=upload, headers=headers)
    other = live.client.post("/datasets?name=again", content=upload + b" ", headers=headers)
    taken = post(live, upload, "again")

    assert (broken.status_code, good.status_code, same.status_code) == (422, 202, 202)
    assert good.json()["id"] == same.json()["id"]
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    assert (taken.status_code, taken.json()["code"]) == (409, "name_taken")


def test_models_that_the_data_cannot_feed_are_refused(live: Live, tmp_path: Path) -> None:
    name = uuid.uuid4().hex[:12]
    columns = small() | {"role": ["user"] * 40, "features": pa.array(np.ones((40, 4), np.float32).tolist(), pa.list_(pa.float32(), 4))}
    live.upload(name, parquet(pa.table(columns), tmp_path / "t.parquet"))
    base = {"name": "x", "dataset": name, "architecture": {"name": "mlp"}}
    cases = [
        (base, 422, "core_rows"),
        (base | {"dataset": "none"}, 404, "dataset_not_found"),
        (base | {"dataset": "digits", "classes": [0, 1]}, 422, "label_outside_classes"),
        (base | {"dataset": "digits", "classes": [0, 0]}, 422, "invalid"),
        (base | {"core": "none"}, 422, "invalid"),
        (base | {"core": "none", "range": 1.0, "ridge": 1.0, "classes": [0, 1]}, 422, "invalid"),
        ({**base, "architecture": {"name": "convnet"}, "classes": [0, 1]}, 422, "core_rows"),
        (base | {"linearize": "some"}, 422, "invalid"),
        (base | {"linearize": "all"}, 422, "core_rows"),
        (base | {"architecture": {"name": "gpt"}}, 422, "invalid"),
    ]

    for body, status, code in cases:
        answer = live.client.post("/models", json=body)
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


def test_taps_that_a_network_does_not_have_end_the_fit_with_the_reason(live: Live) -> None:
    name = uuid.uuid4().hex[:12]
    body = {"name": name, "dataset": "digits", "architecture": {"name": "convnet", "taps": ["nowhere"]}, "training": {"epochs": 1}}

    job = live.job(live.client.post("/models", json=body), state="failed")
    asked = live.forget(name, ids=["a"])

    assert job["error"]["code"] == "architecture"
    assert (asked.status_code, asked.json()["code"]) == (409, "model_not_ready")


def test_an_uploaded_core_is_checked_and_then_used_bit_for_bit(live: Live) -> None:
    live.fit("trained", "digits")
    from safetensors.torch import load

    core = load(live.client.get("/models/trained/versions/1/files/core.safetensors").content)
    net = {k.removeprefix("net."): v for k, v in core.items() if k.startswith("net.")}
    name, first = uuid.uuid4().hex[:12], "stage1.0.weight"
    body = {"name": name, "dataset": "digits", "architecture": {"name": "convnet"}, "core": "upload", "expected_rows": 1000}
    created = live.client.post("/models", json=body)
    put = lambda data: live.client.put(f"/models/{name}/core", content=data)  # noqa: E731

    refused = [put(b"junk"), put(save(net)[:-4]), put(b"\xff" * 4096)]
    wrong = {
        "missing": {k: v for k, v in net.items() if k != first},
        "shape": net | {first: torch.zeros(3, 3)},
        "dtype": net | {first: net[first].double()},
        "finite": net | {first: torch.full_like(net[first], float("nan"))},
        "half": {k: v for k, v in net.items() if k != "input.std"},
        "extra": net | {"surplus": torch.zeros(1)},
    }
    failures = {kind: live.job(put(save(tensors)), state="failed")["error"] for kind, tensors in wrong.items()}
    done = live.job(put(save(net)))

    assert created.json()["state"] == "awaiting_core"
    assert {(a.status_code, a.json()["code"]) for a in refused} == {(422, "safetensors_header")}
    assert {e["code"] for e in failures.values()} == {"core_mismatch"}
    assert all(first in failures[kind]["detail"] for kind in ("missing", "shape", "dtype", "finite"))
    assert done["version"] == 1
    fitted = load(live.client.get(f"/models/{name}/versions/1/files/core.safetensors").content)
    assert all(torch.equal(fitted[f"net.{k}"], v) for k, v in net.items())
    assert put(save(net)).json()["code"] == "core_not_awaited"
