"""Sending hints: as many messages wait in Redis as there are jobs to begin, never more, and none is ever needed."""

from __future__ import annotations

import logging
import time

import redis
from kombu.exceptions import OperationalError as CannotSend

from service import jobs
from service.db import moment
from service.home import Home
from workers.celery_app import TASK, connect

LOG = logging.getLogger("expunge.hints")

BURST = 32
"""Messages sent in one round: more jobs than workers would take in a second need no more."""

PAUSE = 5.0
"""Seconds without sending after Redis could not be reached: workers look by themselves meanwhile."""

EXPIRES = 60
"""Seconds after which an unread hint is worth nothing."""


class Hints:
    """Called by the dispatcher: tells the workers of each queue that something is due."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._app = connect(home.settings.redis_url)
        self._redis = redis.Redis.from_url(home.settings.redis_url, socket_timeout=2, socket_connect_timeout=2)
        self._quiet_until = 0.0

    def __call__(self) -> None:
        if time.monotonic() < self._quiet_until:
            return
        with self._home.db.read() as session:
            due = jobs.due(session, now=moment(session))
        try:
            for queue, count in due.items():
                waiting = self._redis.llen(queue)
                assert isinstance(waiting, int)
                for _ in range(min(count - waiting, BURST)):
                    self._app.send_task(TASK, args=[queue], queue=queue, expires=EXPIRES, ignore_result=True, retry=False)
        except (redis.RedisError, CannotSend, OSError) as error:
            self._quiet_until = time.monotonic() + PAUSE
            LOG.warning("hints cannot be sent: %s", type(error).__name__)
