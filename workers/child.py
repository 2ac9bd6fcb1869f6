"""The warm child: imports torch once, then takes jobs from a pipe, one JSON line each, until the pipe closes.

A job may kill this process, or be killed with it; everything it writes is a blob that nobody points at until the runner publishes.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, TextIO

from service.blobs import StoreUnavailable, open_vault
from service.settings import Settings
from workers.artifacts import Shelf
from workers.device import deterministic, hardware
from workers.failure import Failure
from workers.report import Report
from workers.steps import STEPS


def main() -> None:
    """Serve jobs: `python -m workers.child`, with the service's settings in the environment."""
    # Results go to the pipe alone: whatever a library prints must not be taken for one.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    jobs: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()
    place = Settings()
    vault = open_vault(place.blobs_place, place.keys_path / "blobs", data_dir=place.data_dir, database_url=place.database_url or None)
    deterministic()
    _send(out, {"ready": hardware()})
    while True:
        plan = jobs.get()
        _send(out, _run(plan, Shelf(vault, plan["prefix"]), out))


def _run(plan: dict[str, Any], shelf: Shelf, out: TextIO) -> dict[str, Any]:
    report = Report(
        lambda phase, fraction: _send(out, {"phase": phase, "progress": fraction}),
        lambda checkpoint: _send(out, {"checkpoint": dict(checkpoint)}),
    )
    try:
        return {"outcome": STEPS[plan["kind"]](plan, shelf, report)}
    except Failure as failure:
        return {"failure": failure.document()}
    except StoreUnavailable as error:
        return {"away": error.blob_id}
    except Exception as error:  # the process boundary; type and place alone, because a message may hold personal data
        last = traceback.extract_tb(error.__traceback__)[-1]
        return {"crash": {"type": type(error).__name__, "where": f"{Path(last.filename).name}:{last.lineno}"}}


def _listen(jobs: queue.Queue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        jobs.put(json.loads(line))
    os._exit(0)  # the runner is gone: whatever is being computed can no longer be published


def _send(out: TextIO, message: dict[str, Any]) -> None:
    out.write(json.dumps(message) + "\n")


if __name__ == "__main__":
    main()
