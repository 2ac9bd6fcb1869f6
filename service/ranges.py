"""Conditional and partial downloads, as RFC 9110 sections 13 and 14 say."""

from __future__ import annotations

import re

from starlette.datastructures import Headers

from service.problem import Problem

_FORM = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def unchanged(headers: Headers, etag: str) -> bool:
    """Whether If-None-Match says that the caller has these bytes."""
    known = headers.get("if-none-match")
    return known is not None and (known.strip() == "*" or etag in [tag.strip().removeprefix("W/") for tag in known.split(",")])


def asked(headers: Headers, size: int, etag: str) -> tuple[int, int] | None:
    """The bytes `[start, stop)` that the Range header asks for, or None for the whole.

    Anything but one valid range of bytes is ignored, as the RFC allows; so is a range of other bytes than If-Range names.

    Raises:
        Problem: 416 when nothing of the file lies in the range.
    """
    form = _FORM.fullmatch(headers.get("range", ""))
    if form is None or headers.get("if-range", etag) != etag or not (form[1] or form[2]):
        return None
    if not form[1]:
        start, stop = max(0, size - int(form[2])), size
    else:
        start, stop = int(form[1]), min(size, int(form[2]) + 1 if form[2] else size)
        if form[2] and int(form[2]) < start:
            return None
    if start >= stop:
        raise Problem(416, "range", "Nothing of the file lies in this range.", headers={"Content-Range": f"bytes */{size}"})
    return start, stop
