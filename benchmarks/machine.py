"""Where a benchmark ran: the facts without which its seconds mean nothing. No date, no host name."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from benchmarks.clock import Contender, in_turns
from models.train import threads as torch_threads
from workers.device import hardware

PACKAGES = ("torch", "numpy", "scipy", "pyarrow", "safetensors", "fastapi", "sqlalchemy", "cryptography")


def facts() -> dict[str, Any]:
    """Return processor, memory, system, versions and BLAS builds."""
    blas = sorted(
        {
            f"{pool['internal_api']} {pool['version']} ({pool.get('architecture', '?')})"
            for pool in threadpool_info()
            if pool["user_api"] == "blas"
        }
    )
    return {
        "cpu": hardware()["cpu"],
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(_memory() / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": ".".join(map(str, sys.version_info[:3])),
        "packages": {name: version(name) for name in PACKAGES},
        "blas": blas,
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def where() -> str:
    """Return processor and load, for figures that are kept beside those of other runs."""
    return f"{hardware()['cpu']}, load {os.getloadavg()[0]:.1f}"


@contextmanager
def one_thread() -> Iterator[None]:
    """Hold torch and every BLAS to one thread within the block: the product's rule for whatever must give equal bits."""
    with torch_threads(1), threadpool_limits(1):
        yield


def peak_product_rate(size: int = 1024) -> float:
    """Measure the flops a second of a float64 matrix product on one thread: no factorisation runs faster."""
    left = np.random.default_rng(0).standard_normal((size, size))
    out = np.empty_like(left)
    with one_thread():
        timing = in_turns({"product": Contender(lambda _: np.matmul(left, left, out=out))}, repeats=7)["product"]
    return float(2 * size**3 / timing.least)


def copy_rate(size: int) -> float:
    """Measure the bytes a second, read plus written, of copying an array of `size` bytes: small ones never leave the caches."""
    source = torch.zeros(max(1, size // 8), dtype=torch.float64)
    target = torch.zeros_like(source)
    with one_thread():
        timing = in_turns({"copy": Contender(lambda _: target.copy_(source))}, repeats=9)["copy"]
    return float(2 * source.nbytes / timing.least)


def _memory() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("MemTotal")).split()[1]) * 1024


def peak_of(run: Callable[[], object]) -> int:
    """Return by how many bytes this process's resident memory rises while something runs."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the most that ever was becomes what is now
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def resident(name: str) -> int:
    """Return a figure of this process in bytes: VmRSS is what is resident now, VmHWM the most that was."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024
