"""One byte form for every JSON value: RFC 8785."""

import hashlib
import json
from typing import Any

import rfc8785


class NotCanonical(ValueError):
    """The bytes are not JSON, or not in the one form that RFC 8785 gives their value."""


def dumps(value: Any) -> bytes:
    """Write a JSON value in its RFC 8785 form.

    Raises:
        ValueError: a number is not finite or a whole number is beyond 2^53 - 1, or a key is not text.
    """
    return bytes(rfc8785.dumps(value))


def loads(data: bytes) -> Any:
    """Read JSON that is already in its RFC 8785 form; any other spelling of the same value is refused.

    Writing again and comparing also catches duplicate keys, NaN, lone surrogates and a byte order mark.

    Raises:
        NotCanonical: writing the value again does not give `data`.
    """
    try:
        value = json.loads(data.decode("utf-8"))
        again = dumps(value)
    except (ValueError, RecursionError) as reason:
        raise NotCanonical(f"not canonical JSON: {type(reason).__name__}") from None
    if again != data:
        raise NotCanonical("JSON, but not in its RFC 8785 form")
    return value


def digest(value: Any) -> str:
    """Give the sha256 (hex) of a value's RFC 8785 form."""
    return hashlib.sha256(dumps(value)).hexdigest()
