"""A copy of a data directory, to look into while the service that owns it runs."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path


def copy_of(directory: Path) -> Path:
    target = Path(tempfile.mkdtemp(prefix="copy-")) / "data"
    shutil.copytree(directory, target, ignore=shutil.ignore_patterns("*.part"))
    return target
