"""Keys made ahead: ids whose keys are on the disk before anybody needs them, so that accepting a request waits for one commit alone."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from contextlib import suppress

from service import ids
from service.blobs import BlobError, KeyMissing, Vault

LOG = logging.getLogger("expunge.ahead")

SEVERAL = 64
"""Keys made at once: their files are waited for together, and their directory once."""

LONGEST = 3600.0
"""Seconds. How long a key waits for its blob: well below the age at which housekeeping sweeps ids of uploads that nothing points at."""


class Ahead:
    """The spare ids of one process, each given to one caller. What a process leaves over when it ends, or did not need for so long, is
    swept like any upload that came to nothing."""

    def __init__(self, vault: Vault, several: int) -> None:
        """Make nothing before the first use: a process that accepts no requests makes no spare keys.

        Args:
            several: keys made at once; 0 makes each when it is needed.
        """
        self._vault, self._several = vault, several
        self._spare: deque[tuple[float, str]] = deque()
        """When each was made, by the process's own stopwatch, and its id."""
        self._lock = threading.Lock()
        self._making = False

    def put(self, data: bytes) -> str:
        """Seal what a commit to the service's own database follows. Returns the blob's id.

        Raises:
            StoreFull, StoreUnavailable: nothing was kept.
        """
        spare = self._take()
        if spare is not None:
            # Its key is gone only where this machine's clock is hours behind the database's: swept, by its name, as too old.
            with suppress(KeyMissing):
                return self._vault.put(spare, data, lasting=False, keyed=True).blob_id
        return self._vault.put(ids.new("up"), data, lasting=False).blob_id

    def _take(self) -> str | None:
        with self._lock:
            while self._spare and self._spare[0][0] < time.monotonic() - LONGEST:
                self._spare.popleft()
            taken = self._spare.popleft()[1] if self._spare else None
            if self._making or len(self._spare) * 2 >= self._several:
                return taken
            self._making = True
        threading.Thread(target=self._make, name="keys").start()
        return taken

    def _make(self) -> None:
        begun, made = time.monotonic(), [ids.new("up") for _ in range(self._several)]
        try:
            self._vault.keys.create(made)
        except (BlobError, OSError) as error:  # the thread's boundary: who needs a key now makes it, and is told why that fails
            LOG.warning("no keys were made ahead: %s", type(error).__name__)
            made = []
        with self._lock:
            self._spare.extend((begun, blob_id) for blob_id in made)
            self._making = False
