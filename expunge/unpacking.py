"""A zip of evidence as a directory: plain names only, and nothing larger than evidence is."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

LARGEST = 256 << 20
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)


def unpack(packed: bytes, out: Path) -> Path:
    """Write the files of a zip into a directory that is not there yet.

    Raises:
        OSError: `out` exists, or the zip holds what no evidence does.
    """
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > LARGEST or not all(NAME.fullmatch(entry.filename) for entry in entries):
            raise OSError("the evidence has odd names, or is larger than evidence can be")
        out.mkdir(parents=True)
        for entry in entries:
            (out / entry.filename).write_bytes(archive.read(entry))
    return out
