"""All that a caller needs of a core: make one, write it down, load it, read rows through it."""

from __future__ import annotations

from models.linear.core_file import CoreMismatch, core_tensors, load_core, load_network
from models.linear.fit import fit_core
from models.linear.frozen import TARGET, Core, core_logits, core_statistics, encode, logits, logits_of_rows, plain_core

__all__ = [
    "TARGET",
    "Core",
    "CoreMismatch",
    "core_logits",
    "core_statistics",
    "core_tensors",
    "encode",
    "fit_core",
    "load_core",
    "load_network",
    "logits",
    "logits_of_rows",
    "plain_core",
]
