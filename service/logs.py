"""Logs: one JSON object a line on stderr, with events and ids and never data."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

import structlog

TOLD = ("method", "route", "status", "ms", "location")
"""What a line may carry beside its text. Anything else that a library attaches could be data."""


def configure() -> None:
    """Send every library's log through one formatter. Called once, at the start of a process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Line())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for noisy in ("alembic", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class Line(logging.Formatter):
    """One object a record. Written out, because a chain of processors took as long as a statement of the database, at every request."""

    def format(self, record: logging.LogRecord) -> str:
        attached = record.__dict__
        line = {"event": record.getMessage()} | structlog.contextvars.get_contextvars()
        line |= {name: attached[name] for name in TOLD if name in attached}
        line |= {"level": record.levelname.lower(), "logger": record.name, "timestamp": _moment(record.created)}
        if isinstance(record.exc_info, tuple) and record.exc_info[1] is not None:
            line["error"] = _place(record.exc_info[1])
        return json.dumps(line, default=repr)


def _moment(created: float) -> str:
    return datetime.fromtimestamp(created, UTC).isoformat().replace("+00:00", "Z")


def _place(error: BaseException) -> str:
    """Name an exception's type and place alone: its message, or the value of a variable, may be personal data."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}" if trace else "-"
    return f"{type(error).__name__} at {where}"
