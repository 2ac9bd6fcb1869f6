"""A sealed file as an answer: named by its digest, whole or in part, decrypted chunk by chunk as it leaves."""

from __future__ import annotations

import base64
from itertools import chain

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from service import ranges
from service.blobs import BlobMissing, KeyMissing, Vault
from service.problem import Problem


def answer(request: Request, vault: Vault, blob: str, *, cache: str) -> Response:
    """Answer a GET or HEAD. ETag is the sha256 of the plaintext; Range, If-Range and If-None-Match are honoured.

    Args:
        cache: what Cache-Control says.

    Raises:
        Problem: 410 when the file was destroyed since the record named it; 416.
    """
    try:
        sealed = vault.stat(blob)
        etag = f'"{sealed.sha256}"'
        headers = {
            "ETag": etag,
            "Accept-Ranges": "bytes",
            "Cache-Control": cache,
            "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(sealed.sha256)).decode()}:",
        }
        if ranges.unchanged(request.headers, etag):
            return Response(status_code=304, headers=headers)
        part = ranges.asked(request.headers, sealed.size, etag) if request.method == "GET" else None
        start, stop = part or (0, sealed.size)
        if part:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{sealed.size}"
        headers["Content-Length"] = str(stop - start)
        body = iter(()) if request.method == "HEAD" else vault.stream(blob, start, stop)
        first = next(body, b"")  # a stream that has begun is not cut off when its blob is destroyed
    except (BlobMissing, KeyMissing):
        raise Problem(410, "file_destroyed", "The file was destroyed: something was forgotten. Ask for the latest version.") from None
    return StreamingResponse(chain((first,), body), 206 if part else 200, headers=headers, media_type="application/octet-stream")
