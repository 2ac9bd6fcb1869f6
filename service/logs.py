"""Logs: one JSON object a line on stderr, with events and ids and never data."""

from __future__ import annotations

import logging
import sys

import structlog

TOLD = ("method", "route", "status", "ms", "location")
"""What a line may carry beside its text. Anything else that a library attaches could be data."""


def configure() -> None:
    """Send every library's log through one formatter. Called once, at the start of a process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _without_traceback,
                structlog.processors.JSONRenderer(),
            ],
            foreign_pre_chain=[
                structlog.contextvars.merge_contextvars,
                structlog.stdlib.ExtraAdder(allow=TOLD),
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
            ],
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for noisy in ("alembic", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _without_traceback(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Name an exception's type and place alone: its message, or the value of a variable, may be personal data."""
    event.pop("stack_info", None)
    failed = event.pop("exc_info", None)
    error = failed[1] if isinstance(failed, tuple) else None
    if isinstance(error, BaseException):
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}" if trace else "-"
        event["error"] = f"{type(error).__name__} at {where}"
    return event
