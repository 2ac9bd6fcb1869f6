"""Evidence: what shows how a result was reached, as files and as one zip."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import Any

from fastapi import Response

from service.home import Home
from service.schemas import FileOut


def read(home: Home, files: Mapping[str, Any]) -> dict[str, bytes]:
    """The files of a job's evidence, by name."""
    return {name: home.vault.read(file["blob"]) for name, file in files.items()}


def listed(job_id: str, files: Mapping[str, Any] | None) -> list[FileOut]:
    return [
        FileOut(name=n, sha256=f["sha256"], size=f["size"], url=f"/jobs/{job_id}/evidence/{n}") for n, f in sorted((files or {}).items())
    ]


def packed(documents: Mapping[str, bytes], *, name: str) -> Response:
    """Answer with a zip; the same documents give the same bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, data in sorted(documents.items()):
            archive.writestr(zipfile.ZipInfo(entry), data)
    headers = {"Content-Disposition": f'attachment; filename="{name}-evidence.zip"'}
    return Response(out.getvalue(), media_type="application/zip", headers=headers)
