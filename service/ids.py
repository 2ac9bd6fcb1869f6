"""Names of records: sortable by the time of their making, unguessable enough never to collide."""

from __future__ import annotations

import secrets
import time


def new(prefix: str) -> str:
    """`<prefix>_<12 hex of milliseconds><16 hex of randomness>`: ids of one kind sort by age."""
    return f"{prefix}_{time.time_ns() // 1_000_000:012x}{secrets.token_hex(8)}"
