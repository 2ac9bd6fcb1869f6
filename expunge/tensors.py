"""Where a tensor's bytes lie in a safetensors file, read with the standard library alone."""

import hashlib
import json
from pathlib import Path
from typing import BinaryIO

# The format's own limit on a header.
_LARGEST_HEADER = 100_000_000
_BLOCK = 1 << 20


class BadTensors(ValueError):
    """Not a safetensors file that holds the tensor asked for."""


def digest(path: Path, name: str) -> str:
    """Give the sha256 (hex) of a tensor's bytes as stored: little-endian, row after row, no header.

    Raises:
        BadTensors: not safetensors, cut short, or no such tensor.

    Source: https://huggingface.co/docs/safetensors, "Format"
    """
    try:
        with path.open("rb") as file:
            start, end = _place(file, name)
            file.seek(start)
            return _hash(file, end - start)
    except OSError as reason:
        raise BadTensors(f"{path.name} cannot be read ({reason.strerror})") from None
    except (KeyError, TypeError, ValueError, RecursionError):
        raise BadTensors(f"{path.name} is not a safetensors file with {name}") from None


def _place(file: BinaryIO, name: str) -> tuple[int, int]:
    """Give where the tensor begins and ends in the file."""
    length = int.from_bytes(file.read(8), "little")
    if length > _LARGEST_HEADER:
        raise ValueError("header too long")
    first, last = json.loads(file.read(length))[name]["data_offsets"]
    if not 0 <= first <= last:
        raise ValueError("tensor ends before it begins")
    return 8 + length + first, 8 + length + last


def _hash(file: BinaryIO, left: int) -> str:
    found = hashlib.sha256()
    while left:
        block = file.read(min(left, _BLOCK))
        if not block:
            raise ValueError("cut short")
        found.update(block)
        left -= len(block)
    return found.hexdigest()
