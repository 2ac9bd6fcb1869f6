"""Lists in pages: keyset cursors that stay right while rows are added."""

from __future__ import annotations

from typing import Any

from fastapi import Response
from sqlalchemy import Select
from sqlalchemy.orm import Session

LIMIT = 100


def page(session: Session, query: Select[Any], key: Any, after: str | None, limit: int) -> tuple[list[Any], str | None]:
    """Rows after the cursor, newest first, and the cursor of the next page.

    Args:
        key: the column of ids, which sort by age.
        after: the last id of the page before.
    """
    if after is not None:
        query = query.where(key < after)
    rows = list(session.scalars(query.order_by(key.desc()).limit(limit + 1)))
    return rows[:limit], (rows[limit - 1].id if len(rows) > limit else None)


def link_next(response: Response, path: str, cursor: str | None) -> None:
    if cursor:
        response.headers["Link"] = f'<{path}?after={cursor}>; rel="next"'
