"""What an uploaded Parquet file must look like; checked from its footer and its small columns before it is accepted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from io import RawIOBase
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from service.problem import Problem, at

ROLES = ("core", "user", "audit")
ENCODINGS = ("raw_uint8", "png", "jpeg", "webp_lossless")
MAX_SIDE = 4096
FREE_EXPANSION = 64 << 20
"""Decoded bytes that any file may have, however small it is."""


@dataclass(frozen=True)
class Layout:
    """The form of a data set's rows."""

    shape: tuple[int, ...]
    """`[channels, height, width]` of an image or `[features]`."""
    encoding: str
    """One of ENCODINGS, or `features`."""
    attributes: tuple[str, ...]
    text_labels: bool
    rows: int


def inspect(source: RawIOBase, *, max_rows: int, max_expansion: float) -> Layout:
    """Check footer, schema, ids, roles and labels of an upload.

    Raises:
        Problem: 422 with the column and, where it helps, the row number at fault; never a value.
    """
    try:
        file = pq.ParquetFile(source)
        meta, schema = file.metadata, file.schema_arrow
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _bad("parquet_unreadable", "The body is not a readable Parquet file; it may be cut off.", "", "") from error
    if not 0 < meta.num_rows <= max_rows:
        raise _bad("row_count", f"A data set has 1 to {max_rows} rows.", "", "")
    layout = _layout(schema, meta.num_rows)
    source.seek(0, 2)
    # Counted from the declared shape: a dictionary page can stand for any number of equal images.
    if layout.rows * math.prod(layout.shape) > max_expansion * source.tell() + FREE_EXPANSION:
        raise _bad("expansion", f"The file would decode to more than {max_expansion:g} times its size.", "", "")
    try:
        _check_keys(file, layout)
    except (pa.ArrowException, OSError) as error:
        raise _bad("parquet_unreadable", "The file's pages cannot be decoded; it may be damaged.", "", "") from error
    return layout


def attribute_kinds(schema: pa.Schema) -> dict[str, str]:
    """name -> text, integer, number or boolean."""
    kinds = {}
    for name in attribute_names(schema):
        kind = schema.field(f"attr_{name}").type
        kinds[name] = (
            "text" if _is_text(kind) else "boolean" if pa.types.is_boolean(kind) else "integer" if pa.types.is_integer(kind) else "number"
        )
    return kinds


def attribute_names(schema: pa.Schema) -> tuple[str, ...]:
    return tuple(n.removeprefix("attr_") for n in schema.names if n.startswith("attr_"))


def _bad(code: str, detail: str, column: str, what: str) -> Problem:
    return Problem(422, code, detail, errors=[at(f"column:{column}", what)] if column else [])


def _layout(schema: pa.Schema, rows: int) -> Layout:
    names = schema.names
    if len(set(names)) != len(names):
        raise _bad("columns", "Two columns have the same name.", "", "")
    for needed in ("sample_id", "role", "label"):
        if needed not in names:
            raise _bad("column_missing", f"The column {needed} is missing.", needed, "missing")
    if ("image" in names) == ("features" in names):
        raise _bad(
            "column_missing",
            "Give exactly one of the columns image (binary) and features (fixed-size list of float32).",
            "image",
            "one of two",
        )
    allowed = {"sample_id", "role", "label", "subject_id", "image", "features"}
    if any(n not in allowed and not n.startswith("attr_") for n in names):
        raise _bad(
            "column_unknown",
            "A column is none of sample_id, role, label, subject_id, image, features, attr_<name>. Remove or rename it.",
            str(next(i for i, n in enumerate(names) if n not in allowed and not n.startswith("attr_"))),
            "unknown (counted from 0)",
        )
    for name in ("sample_id", "role", *(["subject_id"] if "subject_id" in names else [])):
        if not _is_text(schema.field(name).type):
            raise _bad("column_type", f"The column {name} must be text.", name, "must be text")
    label = schema.field("label").type
    if not (pa.types.is_integer(label) or _is_text(label)):
        raise _bad("column_type", "The column label must be integers or text.", "label", "must be integers or text")
    for name in attribute_names(schema):
        kind = schema.field(f"attr_{name}").type
        if not (_is_text(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            raise _bad("column_type", "Attributes are text, numbers or booleans.", "attr_*", "must be text, number or boolean")
    shape, encoding = _input_form(schema)
    return Layout(shape, encoding, attribute_names(schema), _is_text(label), rows)


def _input_form(schema: pa.Schema) -> tuple[tuple[int, ...], str]:
    if "features" in schema.names:
        kind = schema.field("features").type
        if not (pa.types.is_fixed_size_list(kind) and pa.types.is_float32(kind.value_type) and 0 < kind.list_size <= 100_000):
            raise _bad(
                "column_type", "The column features must be a fixed-size list of float32.", "features", "must be fixed-size list of float32"
            )
        return (kind.list_size,), "features"
    kind = schema.field("image").type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)):
        raise _bad("column_type", "The column image must be binary.", "image", "must be binary")
    meta = {
        k.decode(): v.decode() for k, v in (schema.metadata or {}).items() if k in (b"image_encoding", b"height", b"width", b"channels")
    }
    encoding = meta.get("image_encoding")
    if encoding not in ENCODINGS:
        raise _bad(
            "metadata_missing", f"The file's metadata key image_encoding must be one of {', '.join(ENCODINGS)}.", "image", "image_encoding"
        )
    sides = []
    for key in ("channels", "height", "width"):
        text = meta.get(key, "")
        if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= (4 if key == "channels" else MAX_SIDE):
            raise _bad("metadata_missing", f"The file's metadata key {key} must be a whole number.", "image", key)
        sides.append(int(text))
    if sides[0] not in (1, 3):
        raise _bad("metadata_missing", "channels must be 1 or 3.", "image", "channels")
    return tuple(sides), encoding


def _check_keys(file: pq.ParquetFile, layout: Layout) -> None:
    keys = file.read(columns=["sample_id", "role", "label"])
    for name in ("sample_id", "role", "label"):
        if keys[name].null_count:
            raise _bad("null", f"The column {name} has empty values.", name, f"row {_first(pc.is_null(keys[name]))} is empty")
    identities = keys["sample_id"]
    length = pc.utf8_length(identities)
    if _any(wrong := pc.or_(pc.equal(length, 0), pc.greater(length, 256))):
        raise _bad("sample_id", "A sample_id has 1 to 256 characters.", "sample_id", f"row {_first(wrong)}")
    if pc.count_distinct(identities).as_py() != len(identities):
        raise _bad("sample_id_duplicate", "Every sample_id must be unique.", "sample_id", "at least one id occurs twice")
    if _any(wrong := pc.invert(pc.is_in(keys["role"], value_set=pa.array(ROLES, keys["role"].type)))):
        raise _bad("role", f"A role is one of {', '.join(ROLES)}.", "role", f"row {_first(wrong)}")
    if layout.text_labels and _any(wrong := pc.greater(pc.utf8_length(keys["label"]), 256)):
        raise _bad("label", "A label has at most 256 characters.", "label", f"row {_first(wrong)}")


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _any(mask: Any) -> bool:
    return bool(pc.any(mask).as_py())


def _first(mask: Any) -> int:
    return int(pc.index(mask, True).as_py())
