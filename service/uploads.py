"""Bodies too large for memory: streamed from the connection into a sealed blob, counted on the way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import anyio.from_thread
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from service.blobs import Sealed, StoreFull
from service.home import Home
from service.problem import Problem


async def receive(request: Request, home: Home, blob: str, limit: int) -> Sealed:
    """Seal the body of `request` as `blob`. No plaintext touches the disk; a broken upload leaves nothing.

    Raises:
        Problem: 413 over `limit` bytes, 400 when the client went away, 507 without room.
    """
    stream = request.stream()
    try:
        return await run_in_threadpool(home.vault.put, blob, _pieces(stream, limit))
    except ClientDisconnect as error:
        raise Problem(400, "upload_broken_off", "The upload ended early; send it again.") from error
    except StoreFull as error:
        raise Problem(507, "store_full", "There is no room for this upload; nothing was kept. Free space and send it again.") from error


async def _next(stream: AsyncIterator[bytes]) -> bytes:
    return await anext(stream)


def _pieces(stream: AsyncIterator[bytes], limit: int) -> Iterator[bytes]:
    size = 0
    while True:
        try:
            piece: bytes = anyio.from_thread.run(_next, stream)
        except StopAsyncIteration:
            return
        size += len(piece)
        if size > limit:
            raise Problem(413, "body_too_large", f"An upload has at most {limit} bytes.")
        if piece:
            yield piece
