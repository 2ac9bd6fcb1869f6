"""`python -m benchmarks [NAME ...] [--full] [--tasks A,B] [--seeds 0,1]`: run benchmarks, print their tables, keep their results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial

from benchmarks import (
    accuracy,
    attributes,
    audits,
    caltech,
    cifar,
    erase,
    erase_speed,
    few,
    forget,
    latency,
    linearised,
    machine,
    photographs,
    removals,
    service,
    setting,
    transfer,
    wide,
)
from benchmarks.data import DataMissing
from benchmarks.outcome import Outcome, progress, save, show

Run = Callable[[argparse.Namespace, Callable[[Outcome], None]], Outcome]

ERASED = (*(task.name for task in attributes.TASKS), erase_speed.NAME)
"""Tasks of the benchmark of removals."""

BENCHMARKS: dict[str, Run] = {
    forget.NAME: lambda asked, keep: forget.run(full=asked.full, names=asked.tasks),
    removals.NAME: lambda asked, keep: removals.run(),
    accuracy.NAME: lambda asked, keep: accuracy.run(full=asked.full, tasks=asked.tasks, seeds=asked.seeds, keep=keep),
    latency.NAME: lambda asked, keep: latency.run(),
    linearised.NAME: lambda asked, keep: linearised.run(seeds=asked.seeds, full=asked.full, keep=keep),
    few.NAME: lambda asked, keep: few.run(seeds=asked.seeds, keep=keep),
    erase.NAME: lambda asked, keep: erase.run(seeds=asked.seeds, tasks=[name for name in asked.tasks if name in ERASED], keep=keep),
    caltech.NAME: lambda asked, keep: caltech.run(),
    photographs.NAME: lambda asked, keep: photographs.run(seeds=asked.seeds, keep=keep),
    cifar.NAME: lambda asked, keep: cifar.run(seeds=asked.seeds, keep=keep),
    transfer.NAME: lambda asked, keep: transfer.run(),
    service.NAME: lambda asked, keep: service.run(),
    wide.NAME: lambda asked, keep: wide.run(),
    audits.NAME: lambda asked, keep: audits.run(),
}

MINUTES = {
    forget.NAME: (forget.MINUTES, forget.MINUTES_FULL),
    removals.NAME: (removals.MINUTES, 0),
    accuracy.NAME: (accuracy.MINUTES, accuracy.MINUTES_LARGE),
    latency.NAME: (latency.MINUTES, 0),
    linearised.NAME: (linearised.MINUTES, linearised.MINUTES_FULL),
    few.NAME: (few.MINUTES, 0),
    erase.NAME: (erase.MINUTES, 0),
    caltech.NAME: (caltech.MINUTES, 0),
    photographs.NAME: (photographs.MINUTES, 0),
    cifar.NAME: (cifar.MINUTES, 0),
    transfer.NAME: (transfer.MINUTES, 0),
    service.NAME: (service.MINUTES, 0),
    wide.NAME: (wide.MINUTES, 0),
    audits.NAME: (audits.MINUTES, 0),
}
"""Of each on two idle cores: the standard run, and what `--full` adds."""

FULL_ONLY = (few.NAME, caltech.NAME, photographs.NAME, cifar.NAME)
"""Run by `--full`, or by name."""


def main(arguments: list[str]) -> int:
    """Run what was asked for. A wrong result ends with an error; a missed goal is printed and does not."""
    asked = _parsed(arguments)
    chosen = asked.names or [name for name in BENCHMARKS if asked.full or name not in FULL_ONLY]
    minutes = sum(MINUTES[name][0] + asked.full * MINUTES[name][1] for name in chosen)
    progress(f"{', '.join(chosen)}: about {minutes} minutes on two idle cores")
    where = machine.facts()
    for name in chosen:
        progress(f"{name} ...")
        try:
            outcome = BENCHMARKS[name](asked, partial(save, machine=where))
        except DataMissing as missing:
            progress(f"{name} skipped: {missing}")
            continue
        save(outcome, where)
        sys.stdout.write(show(outcome) + "\n")
        sys.stdout.flush()
    return 0


def _parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Side by side with what one could do instead.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(BENCHMARKS)}; default: all but {', '.join(FULL_ONLY)}")
    parser.add_argument("--full", action="store_true", help="the large accuracy tasks, widest features, a pretrained core, CIFAR-10 too")
    parser.add_argument("--tasks", type=_names, default=[], help="tasks of accuracy or erase, or forms of forget, to run alone")
    parser.add_argument("--seeds", type=_seeds, help="seeds to run, such as 0,2; others' results stay")
    asked = parser.parse_args(arguments)
    if unknown := set(asked.names) - set(BENCHMARKS):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    known = {task.name for task in (*accuracy.STANDARD, *accuracy.LARGE, *setting.ALL_FORMS)} | set(ERASED)
    if unknown := set(asked.tasks) - known:
        parser.error(f"no task or form is called {', '.join(sorted(unknown))}")
    return asked


def _names(text: str) -> list[str]:
    return text.split(",")


def _seeds(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
