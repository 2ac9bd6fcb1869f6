"""Failure: why a job cannot be carried out, however often it is tried; said without any data."""

from __future__ import annotations

import torch


class Failure(Exception):
    """A reason to end a job as failed.

    `code` is for programs. `detail` says what is wrong, where (row numbers, names of tensors or fields) and what to do next.
    """

    def __init__(self, code: str, detail: str, *, row: int | None = None) -> None:
        super().__init__(code)
        self.code, self.detail, self.row = code, detail, row

    def document(self) -> dict[str, str | int]:
        body: dict[str, str | int] = {"code": self.code, "detail": self.detail}
        return body | ({"row": self.row} if self.row is not None else {})


ENDS_EARLY = (Failure, ValueError, torch.linalg.LinAlgError)  # type: ignore[attr-defined]
"""What a training that stands beside a score may end with, without the score's audit ending too."""


def ended_early(error: Exception) -> str:
    """Why a training from another seed, which stands beside a score, is not there."""
    return f"Trained again from another seed it ended early: {error.detail if isinstance(error, Failure) else error}"
