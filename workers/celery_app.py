"""Hints over Redis. A message says only "look": the row is the truth, so losing, doubling or shuffling messages changes nothing.

Measured with Celery on Redis: FLUSHALL loses a queued task for ever, a task longer than the visibility timeout ran three times, after
kill -9 a task stayed unacknowledged. Hence no task carries work, and none is waited for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from celery import Celery

from service.states import Queue

TASK = "expunge.hint"

SETTINGS = {
    # A message holds the name of a queue: nothing that unpickles or evaluates is ever needed.
    "task_serializer": "json",
    "event_serializer": "json",
    "accept_content": ["json"],
    # What comes of a job stands in the record.
    "result_backend": None,
    "task_ignore_result": True,
    # Acknowledged when received: a hint that is lost with its worker is sent again by the dispatcher.
    "task_acks_late": False,
    # One job a process, because a job has a child process, and perhaps a GPU, to itself. `solo` ran tasks twice, `prefork` forks.
    "worker_pool": "threads",
    "worker_concurrency": 1,
    # A busy worker must leave the hint for one that is free.
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": True,
    # Redis may come late, go and come again: the worker looks for jobs by itself meanwhile.
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "broker_connection_timeout": 5,
    # Every wait on a peer that says nothing has an end; longer than the transport's own polling of one second.
    "broker_transport_options": {"socket_timeout": 10, "socket_connect_timeout": 5, "socket_keepalive": True, "health_check_interval": 10},
    # The dispatcher sends again: a hint that cannot be sent now is not worth waiting for.
    "task_publish_retry": False,
    "task_default_queue": "cpu",
    # Nobody commands workers through Redis: cancelling goes through the row.
    "worker_enable_remote_control": False,
    "worker_send_task_events": False,
    "worker_hijack_root_logger": False,
    "worker_redirect_stdouts": False,
}

app: Any = Celery("expunge", set_as_current=False)
app.conf.update(SETTINGS)

_looks: list[Callable[[], None]] = []


def hint(queue: str) -> None:
    """Look for due jobs; return when there are none that this process can take."""
    for look in _looks:
        look()


app.task(hint, name=TASK)


def connect(redis_url: str) -> Any:
    """The app on this Redis."""
    app.conf.broker_url = redis_url
    return app


def attend(redis_url: str, queue: Queue, look: Callable[[], None]) -> None:
    """Consume the hints of a queue, calling `look` for each, until the process ends. Runs in a thread of its own."""
    _looks[:] = [look]
    for noisy in ("celery.worker.strategy", "celery.app.trace"):  # two lines a hint: what jobs do stands in the record
        logging.getLogger(noisy).setLevel(logging.WARNING)
    worker = connect(redis_url).WorkController(queues=[queue], without_gossip=True, without_mingle=True, without_heartbeat=True)
    worker.start()
