"""Names of records: sortable by the time of their making, unguessable enough never to collide."""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime


def new(prefix: str) -> str:
    """`<prefix>_<12 hex of milliseconds><16 hex of randomness>`: ids of one kind sort by age."""
    return f"{prefix}_{time.time_ns() // 1_000_000:012x}{secrets.token_hex(8)}"


def made_at(identity: str) -> datetime:
    """When an id was made."""
    return datetime.fromtimestamp(int(identity.partition("_")[2][:12], 16) / 1000, UTC)
