"""One method in a process of its own, so that its peak of memory is its own: `python -m benchmarks.alone METHOD FOLDER`.

Prints one JSON line: `seconds` of the method alone, and `peak` bytes of resident memory above what the loaded libraries already took.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import rivals, setting
from benchmarks.machine import one_thread, resident
from models.linear.core import Core

Method = Callable[[Path, Core], Callable[[], object]]


def _forget(folder: Path, core: Core) -> Callable[[], object]:
    sums, gone = setting.read_statistics(folder, "statistics"), setting.read_rows(folder, "gone")
    return lambda: rivals.forget(sums, gone, core)


def _refit_cached(folder: Path, core: Core) -> Callable[[], object]:
    begun, kept = setting.read_statistics(folder, "begun"), setting.read_rows(folder, "kept")
    return lambda: rivals.refit_cached(core, begun, kept)


def _refit_raw(folder: Path, core: Core) -> Callable[[], object]:
    begun, kept = setting.read_statistics(folder, "begun"), setting.read_samples(folder)
    return lambda: rivals.refit_raw(core, begun, kept)


def _fine_tune(folder: Path, core: Core) -> Callable[[], object]:
    kept = setting.read_samples(folder)
    return lambda: rivals.fine_tune(core, kept)


METHODS: dict[str, Method] = {"forget": _forget, "refit_cached": _refit_cached, "refit_raw": _refit_raw, "fine_tune": _fine_tune}


@dataclass(frozen=True)
class Alone:
    """What one method took in a fresh process."""

    seconds: float
    peak: int
    """Bytes, its inputs among them."""


def start(method: str, folder: Path) -> subprocess.Popen[str]:
    """Start a method in a process of its own; several may run at once."""
    return subprocess.Popen([sys.executable, "-m", "benchmarks.alone", method, str(folder)], stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> Alone:
    """Wait for it.

    Raises:
        RuntimeError: it failed; what it said is on stderr.
    """
    out, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"a measured process ended with {process.returncode}")
    figures = json.loads(out)
    return Alone(figures["seconds"], figures["peak"])


def main(method: str, folder: Path) -> Alone:
    """Load what the method needs and run it once, on one thread."""
    with one_thread():
        before = resident("VmRSS")
        core = setting.read_core(folder)
        work = METHODS[method](folder, core)
        begun = time.perf_counter()
        work()
        seconds = time.perf_counter() - begun
    # Not getrusage: its maximum is taken over from the process that started this one.
    return Alone(seconds, resident("VmHWM") - before)


if __name__ == "__main__":
    found = main(sys.argv[1], Path(sys.argv[2]))
    sys.stdout.write(json.dumps({"seconds": found.seconds, "peak": found.peak}) + "\n")
