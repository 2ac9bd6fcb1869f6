"""`expunge worker`: one process that carries jobs out, one at a time, in one warm child. As many as there are cores or GPUs to give."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from typing import Any, NoReturn

from service import logs
from service.home import open_home
from service.settings import Settings
from service.states import Queue
from workers.celery_app import attend
from workers.runner import Runner

LOG = logging.getLogger("expunge.worker")

REDIS_AGAIN = 5.0
"""Seconds until the hints are attended to again after that ended; jobs are taken all the while."""


class NotDistributed(Exception):
    """An embedded service carries its jobs out itself."""


class Told(BaseException):
    """A signal came."""


def work(settings: Settings, *, queue: Queue, announce: Any) -> None:
    """Run until SIGINT or SIGTERM; a job in hand is then given back at once. Killed at any moment, it loses nothing.

    Raises:
        NotDistributed, SchemaBehind.
    """
    if not settings.distributed:
        raise NotDistributed("a worker needs EXPUNGE_DATABASE_URL=postgresql... and EXPUNGE_REDIS_URL; without, `expunge serve` does all")
    logs.configure()
    home = open_home(settings)
    runner = Runner(home, threading.Event(), queue=queue)
    running = threading.Thread(target=runner.run, name="runner")
    # A daemon: it holds nothing that must be ended in order, and may be waiting for Redis.
    hints = threading.Thread(target=_attend, args=(settings.redis_url, queue, runner), name="hints", daemon=True)
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _told)
        running.start()
        hints.start()
        announce(f"working on the queue {queue} as process {os.getpid()}")
        while running.is_alive():
            time.sleep(1)
    except Told:
        pass
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        runner.stop()
        if running.ident is not None:
            running.join()
        home.close()


def _attend(redis_url: str, queue: Queue, runner: Runner) -> None:
    while True:
        try:
            attend(redis_url, queue, runner.look)
        except Exception as error:  # the thread's boundary: hints only save waiting
            LOG.warning("hints are not heard: %s", type(error).__name__)
        time.sleep(REDIS_AGAIN)


def _told(number: int, frame: object) -> NoReturn:
    raise Told
