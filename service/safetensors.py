"""The header of a safetensors file, checked without torch and before anything is allocated."""

from __future__ import annotations

import json
import math
from io import RawIOBase
from typing import Any

from service.problem import Problem

MAX_HEADER = 10 << 20
_WIDTH = {"F64": 8, "F32": 4, "I64": 8, "I32": 4}


def check_header(source: RawIOBase, size: int) -> None:
    """Check that the file holds what its header says, without gaps or overlaps. Names and shapes are the fit job's to check.

    Raises:
        Problem: 422 `safetensors_header`.
    """
    head = source.read(8) or b""
    length = int.from_bytes(head, "little")
    if len(head) < 8 or not 2 <= length <= min(MAX_HEADER, size - 8):
        raise _bad("The body is not a safetensors file.")
    try:
        header = json.loads(source.read(length) or b"")
    except (ValueError, RecursionError) as error:
        raise _bad("The header of the safetensors file is not JSON.") from error
    if not isinstance(header, dict):
        raise _bad("The header of the safetensors file is not an object.")
    ends = sorted(_span(entry) for name, entry in header.items() if name != "__metadata__")
    position = 0
    for start, end in ends:
        if start != position:
            raise _bad("The tensors of the safetensors file leave gaps or overlap.")
        position = end
    if position != size - 8 - length or not ends:
        raise _bad("The safetensors file is shorter or longer than its header says.")


def _span(entry: Any) -> tuple[int, int]:
    try:
        width, shape, (start, end) = _WIDTH[entry["dtype"]], entry["shape"], entry["data_offsets"]
        whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in (*shape, start, end))
    except (KeyError, TypeError, ValueError) as error:
        raise _bad("A tensor's entry is malformed, or its type is none of float64, float32, int64, int32.") from error
    if not whole or end - start != width * math.prod(shape):
        raise _bad("A tensor's size does not fit its shape and type.")
    return start, end


def _bad(detail: str) -> Problem:
    return Problem(422, "safetensors_header", detail)
