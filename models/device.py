"""Where long computations run: on a GPU where there is one."""

from __future__ import annotations

import torch


def accelerator() -> torch.device:
    """Return the first GPU, or the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
