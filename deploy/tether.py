"""Children that end with their parent, even if it is killed: the kernel tells them. On Linux; elsewhere they stay."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def tether() -> Callable[[], None] | None:
    """What a child is to do before it becomes its program, so that it gets SIGINT when this process ends, however that ends.

    SIGINT: our programs end in order at it, and PostgreSQL without waiting for those who are connected. The child must be started by the
    first thread: the kernel means the thread that started it.
    """
    if not sys.platform.startswith("linux"):
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()

    def hold_on() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != parent:  # it ended before the kernel knew
            os._exit(1)

    return hold_on
