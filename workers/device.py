"""Where the computation runs: the facts that its last bits depend on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import numpy as np
import torch

from models.linear.solve import THREADS


def hardware() -> dict[str, str | int]:
    """The environment for which equal bits are claimed: processor, GPU if any, torch build, LAPACK build, threads of the solve."""
    built = np.show_config(mode="dicts")  # type: ignore[call-overload, unused-ignore]
    lapack = built["Build Dependencies"]["lapack"]
    gpu = f"; {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return {"cpu": f"{_cpu()}{gpu}", "torch": torch.__version__, "lapack": f"{lapack['name']} {lapack['version']}", "threads": THREADS}


def deterministic() -> None:
    """Refuse operations whose bits change from run to run; on a GPU also products of fewer bits than float32.

    cuBLAS refuses every product in this mode until it is told to keep its workspaces apart. It reads that when it is first used.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.use_deterministic_algorithms.html
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{model or 'unknown'} ({platform.machine()})"
