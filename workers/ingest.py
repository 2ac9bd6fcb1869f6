"""An uploaded Parquet file becomes decoded, checked blocks of rows."""

from __future__ import annotations

import io
from collections.abc import Iterator
from io import RawIOBase
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from service.parquet import Layout
from workers.failure import Failure

BLOCK_ROWS = 1000
"""Rows of one encrypted block: forgetting a row rewrites its block, so a block is neither a row nor the data set."""

_PILLOW = {"png": "PNG", "jpeg": "JPEG", "webp_lossless": "WEBP"}


def blocks(source: RawIOBase, layout: Layout) -> Iterator[pa.Table]:
    """Read the file in blocks of decoded rows.

    Yields:
        tables with sample_id, role, label, subject_id, attr_*, and `input`: fixed-size binary (uint8, channels first) or list of float32.

    Raises:
        Failure: `image_undecodable`, `image_shape` or `features_not_finite`, with the row number.
    """
    file, row = pq.ParquetFile(source), 0
    try:
        for batch in file.iter_batches(batch_size=BLOCK_ROWS):
            yield _block(pa.Table.from_batches([batch]), layout, row)
            row += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise Failure("parquet_unreadable", "A page of the file cannot be decoded; upload it again.", row=row) from error


def _block(table: pa.Table, layout: Layout, first_row: int) -> pa.Table:
    keys = {n: table[n].cast(pa.string()) for n in ("sample_id", "role")}
    keys["label"] = table["label"].cast(pa.string() if layout.text_labels else pa.int64())
    keys["subject_id"] = table["subject_id"].cast(pa.string()) if "subject_id" in table.column_names else pa.nulls(len(table), pa.string())
    for name in layout.attributes:
        keys[f"attr_{name}"] = table[f"attr_{name}"]
    return pa.table(
        keys | {"input": _features(table, layout, first_row) if layout.encoding == "features" else _images(table, layout, first_row)}
    )


def _features(table: pa.Table, layout: Layout, first_row: int) -> pa.Array:
    column = table["features"].combine_chunks()
    if column.null_count:
        raise Failure("features_not_finite", "A row has no features.", row=first_row + int(column.is_null().index(True).as_py()))
    flat = column.flatten()
    values = flat.fill_null(float("nan")).to_numpy(zero_copy_only=False).reshape(len(table), layout.shape[0])
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise Failure(
            "features_not_finite", "A feature is NaN or infinite; mend the row and upload again.", row=first_row + int(bad.argmax())
        )
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1), pa.float32()), layout.shape[0])


def _images(table: pa.Table, layout: Layout, first_row: int) -> pa.Array:
    size = int(np.prod(layout.shape))
    decoded = [_image(cell.as_py(), layout, first_row + i) for i, cell in enumerate(table["image"])]
    return pa.array(decoded, pa.binary(size))


def _image(data: bytes | None, layout: Layout, row: int) -> bytes:
    channels, height, width = layout.shape
    if layout.encoding == "raw_uint8":
        if data is None or len(data) != channels * height * width:
            raise Failure("image_shape", f"An image has not {channels} x {height} x {width} bytes, as the file's metadata says.", row=row)
        return data if channels == 1 else _channels_first(np.frombuffer(data, np.uint8).reshape(height, width, channels))
    try:
        with Image.open(io.BytesIO(data or b""), formats=[_PILLOW[layout.encoding]]) as image:
            if image.size != (width, height):
                raise Failure("image_shape", f"An image is not {width} x {height}, as the file's metadata says.", row=row)
            pixels: Any = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Failure("image_undecodable", f"An image does not decode as {layout.encoding}.", row=row) from error
    return _channels_first(pixels.reshape(height, width, channels))


def _channels_first(pixels: Any) -> bytes:
    """`[h, w, c]` -> bytes of `[c, h, w]`."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)).tobytes()
