"""A version on its way here: resumed where it broke off, checked against its digests, moved into place when whole."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from expunge import dsse
from expunge.statement import PROOF_FILES, SUBJECT_FILES

if TYPE_CHECKING:
    from expunge.client import Client

TRIES = 5
"""Broken connections in a row, without a byte of progress between them, before a file is given up."""

Progress = Callable[[int, int], None]


class DownloadFailed(Exception):
    """What arrived is not what the service announced, or there is no place to put it."""


def download(client: Client, model: str, version: str, out: Path, *, progress: Progress) -> Path:
    """Fetch all nine files of a version into the directory `out`.

    Files come into `out` + `.part` first, so a download that was broken off goes on where it stopped when it is asked for again, and
    `out` never holds half a version. An earlier version in `out` is replaced.

    Args:
        progress: told how many bytes of the four large files are there, of how many.

    Raises:
        DownloadFailed: a file has another digest than announced, or `out` holds something else than a version.
        Problem: the version does not exist, or was withdrawn in the meantime.
    """
    _refuse_other(out)
    found = client.version(model, version)
    if found["state"] != "certified":
        where = f" Version {found['successor'].rsplit('/', 1)[-1]} replaces it." if found["successor"] else ""
        raise DownloadFailed(f"Version {found['number']} is withdrawn: something was forgotten since.{where}")
    base = f"/models/{found['model']}/versions/{found['number']}"
    part = out.with_name(out.name + ".part")
    part.mkdir(parents=True, exist_ok=True)
    size, done = sum(file["size"] for file in found["files"]), 0
    for file in found["files"]:
        _fetch(client, file, part, lambda got, before=done: progress(before + got, size))  # type: ignore[misc]
        done += file["size"]
    for name in PROOF_FILES:
        (part / name).write_bytes(client.fetch(f"{base}/files/{name}"))
    _refuse_other_statement(part / "certificate.sigstore.json", found["digest"])
    _move(part, out, {*PROOF_FILES, *(file["name"] for file in found["files"])})
    return out


def _refuse_other(out: Path) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise DownloadFailed(f"{out} is a file. Name a directory.")
    spare = sorted(entry.name for entry in out.iterdir() if entry.name not in (*SUBJECT_FILES, *PROOF_FILES))
    if spare:
        raise DownloadFailed(f"{out} holds other files ({', '.join(spare[:3])}). Name a new or empty directory.")


def _fetch(client: Client, file: dict[str, Any], part: Path, progress: Callable[[int], None]) -> None:
    """Bring one file to its full length and check it."""
    name, digest, size = file["name"], file["sha256"], file["size"]
    if name not in SUBJECT_FILES:
        raise DownloadFailed(f"The service announced an unknown file, {name!r}. Try a newer expunge.")
    # The digest is in the name: bytes of another version are never continued.
    half = part / f"{name}.{digest[:16]}"
    broken = 0
    while (have := half.stat().st_size if half.exists() else 0) < size or not half.exists():
        try:
            _continue(client, file, half, have, progress)
        except httpx.TransportError as error:
            broken = broken + 1 if half.exists() and half.stat().st_size == have else 1
            if broken >= TRIES:
                raise DownloadFailed(f"{name} broke off {TRIES} times ({error or type(error).__name__}). "
                                     "Run the same command again: it goes on where it stopped.") from error
            time.sleep(0.2 * broken)
    with half.open("rb") as stored:
        if hashlib.file_digest(stored, "sha256").hexdigest() != digest:
            half.unlink()
            raise DownloadFailed(f"{name} arrived with another sha256 than announced and was thrown away. Download it again.")
    progress(size)
    half.replace(part / name)


def _continue(client: Client, file: dict[str, Any], half: Path, have: int, progress: Callable[[int], None]) -> None:
    digest = file["sha256"]
    headers = {"Accept-Encoding": "identity"}  # positions are of the file's own bytes
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": f'"{digest}"'}
    with client.stream(file["url"], headers=headers) as response:
        promised = response.headers.get("repr-digest")
        if promised is not None and promised != f"sha-256=:{base64.b64encode(bytes.fromhex(digest)).decode()}:":
            raise DownloadFailed(f"{file['name']} changed while it was fetched. Download the version again.")
        with half.open("ab" if response.status_code == 206 else "wb") as stored:
            for piece in response.iter_bytes():  # as they come: what is held back to fill a block is lost when the connection breaks
                stored.write(piece)
                progress(stored.tell())
        if half.stat().st_size > file["size"]:
            half.unlink()
            raise DownloadFailed(f"{file['name']} is longer than announced and was thrown away. Download it again.")


def _refuse_other_statement(path: Path, digest: str) -> None:
    try:
        payload = dsse.read(path.read_bytes()).payload
    except dsse.Malformed as error:
        raise DownloadFailed(f"The certificate is not a bundle ({error}).") from error
    if hashlib.sha256(payload).hexdigest() != digest:
        raise DownloadFailed("The certificate is another one than the version's. Download the version again.")


def _move(part: Path, out: Path, names: set[str]) -> None:
    """Put the finished directory in the place of `out`."""
    for entry in part.iterdir():
        if entry.name not in names:
            entry.unlink()
            continue
        with entry.open("rb") as file:
            os.fsync(file.fileno())
    if out.exists():
        shutil.rmtree(out)
    part.replace(out)
