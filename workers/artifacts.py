"""Blobs and what they mean: safetensors for numbers, Arrow for rows and their names; nothing that could run code."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from models.data import Samples
from models.linear.statistics import Rows, Statistics
from service.blobs import Sealed, Vault
from service.parquet import attribute_kinds
from workers.failure import Failure


@dataclass
class Shelf:
    """Where one claim of a job writes its blobs: `<job>-<fence>-<n>`, so that what a killed claim left behind can be found."""

    vault: Vault
    prefix: str
    written: int = 0

    def put(self, data: bytes) -> Sealed:
        self.written += 1
        return self.vault.put(f"{self.prefix}{self.written}", data)

    def put_file(self, data: bytes) -> dict[str, Any]:
        """Store a file of a version: `{blob, sha256, size}`."""
        sealed = self.put(data)
        return {"blob": sealed.blob_id, "sha256": sealed.sha256, "size": sealed.size}


# Tables ---------------------------------------------------------------------------------------------------------------


def pack_table(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def unpack_table(data: bytes) -> pa.Table:
    with pa.ipc.open_stream(data) as reader:
        return reader.read_all()


def index_of(blocks: Iterable[pa.Table]) -> pa.Table:
    """The index of a data set: every column but the inputs, and the number of each row's block."""
    return pa.concat_tables(
        block.drop_columns(["input"]).append_column("block", pa.array(np.full(len(block), number, np.int32)))
        for number, block in enumerate(blocks)
    )


def summary_of(index: pa.Table, shape: tuple[int, ...]) -> dict[str, Any]:
    """What may be shown of a data set: counts by role and label, the form of an input, the attributes' names and kinds."""
    roles: dict[str, Any] = {}
    for role in ("core", "user", "audit"):
        labels = index.filter(pc.equal(index["role"], role))["label"]
        counts = labels.value_counts().to_pylist()
        roles[role] = {"rows": len(labels), "labels": [[c["values"], c["counts"]] for c in sorted(counts, key=lambda c: c["values"])]}
    return {"rows": len(index), "shape": list(shape), "attributes": attribute_kinds(index.schema), "roles": roles}


# Rows of a data set ---------------------------------------------------------------------------------------------------


def samples_of(table: pa.Table, shape: tuple[int, ...], classes: list[Any]) -> Samples:
    """Rows of one or more blocks as tensors.

    Raises:
        Failure: `label_unknown`, when a label is not among the declared classes.
    """
    labels = labels_of(table, classes)
    raw = table["input"].combine_chunks()
    if len(shape) == 3:
        size = int(np.prod(shape))
        pixels = np.frombuffer(raw.buffers()[1], np.uint8, count=len(raw) * size, offset=raw.offset * size)
        inputs = torch.from_numpy(pixels.reshape(len(raw), *shape).copy())
    else:
        inputs = torch.from_numpy(raw.flatten().to_numpy(zero_copy_only=False).reshape(len(raw), shape[0]).astype(np.float32))
    return Samples(inputs=inputs, labels=torch.from_numpy(labels.to_numpy().astype(np.int64)), ids=tuple(table["sample_id"].to_pylist()))


def labels_of(table: pa.Table, classes: list[Any]) -> Any:
    """Each row's place in the list of classes.

    Raises:
        Failure: `label_unknown`, when a label is not among them.
    """
    labels = pc.index_in(table["label"], value_set=pa.array(classes, table.schema.field("label").type))
    if labels.null_count:
        raise Failure(
            "label_unknown", f"{labels.null_count} rows have a label outside the model's classes; declare it in `classes` or remove them."
        )
    return labels


def rows_with_role(blocks: Iterable[pa.Table], role: str) -> pa.Table:
    return pa.concat_tables(block.filter(pc.equal(block["role"], role)) for block in blocks)


def among(column: Any, names: AbstractSet[str]) -> Any:
    """Which values of a column are among these names: a mask to filter by."""
    return pc.is_in(column, value_set=pa.array(list(names), pa.string()))


def in_final_half(sample_id: str) -> bool:
    """Which half of the audit rows a certificate may be measured on; the other half is for choosing."""
    return hashlib.sha256(sample_id.encode()).digest()[0] % 2 == 1


# Integer rows and statistics ------------------------------------------------------------------------------------------


def pack_rows(rows: Rows, ids: Iterable[str], labels: Tensor) -> bytes:
    names = [i.encode() for i in ids]
    ends = np.cumsum([len(n) for n in names], dtype=np.int64)
    return save_tensors(
        {
            "features": rows.features.contiguous(),
            "targets": rows.targets.contiguous(),
            "labels": labels.contiguous(),
            "ids": torch.frombuffer(bytearray(b"".join(names)) or bytearray(1), dtype=torch.uint8),
            "id_ends": torch.from_numpy(ends),
        }
    )


@dataclass(frozen=True)
class NamedRows:
    rows: Rows
    labels: Tensor
    """`[m]` int64, index in the class list."""
    ids: list[str]

    def pick(self, mask: Any) -> NamedRows:
        keep = torch.from_numpy(np.asarray(mask, dtype=bool))
        return NamedRows(
            Rows(self.rows.features[keep], self.rows.targets[keep]),
            self.labels[keep],
            [i for i, k in zip(self.ids, mask, strict=True) if k],
        )


def unpack_rows(data: bytes) -> NamedRows:
    tensors = load_tensors(data)
    joined, ends = tensors["ids"].numpy().tobytes(), tensors["id_ends"].tolist()
    ids = [joined[a:b].decode() for a, b in zip([0, *ends], ends, strict=False)]
    return NamedRows(Rows(tensors["features"], tensors["targets"]), tensors["labels"], ids)


def concat_rows(parts: list[NamedRows]) -> NamedRows:
    return NamedRows(
        Rows(torch.cat([p.rows.features for p in parts]), torch.cat([p.rows.targets for p in parts])),
        torch.cat([p.labels for p in parts]),
        [i for p in parts for i in p.ids],
    )


def pack_statistics(statistics: Statistics) -> bytes:
    return save_tensors({"A": statistics.A, "B": statistics.B, "rows": torch.tensor(statistics.rows)})


def unpack_statistics(data: bytes) -> Statistics:
    tensors = load_tensors(data)
    return Statistics(tensors["A"], tensors["B"], int(tensors["rows"]))


def pack_weights(tensors: Mapping[str, Tensor]) -> bytes:
    """A safetensors file whose bytes are a function of the tensors alone: no metadata, no time, no version."""
    return save_tensors({name: tensor.contiguous() for name, tensor in tensors.items()})


def unpack_weights(data: bytes) -> dict[str, Tensor]:
    try:
        return load_tensors(data)
    except SafetensorError as error:
        raise Failure("core_unreadable", "The uploaded core is not a readable safetensors file.") from error
