"""Samples: inputs, labels and the ids by which a person may ask to be forgotten."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Samples:
    """Rows of one data set, in a fixed order."""

    inputs: Tensor
    """`[n, C, H, W]` uint8 images, or `[n, k]` float32 features."""

    labels: Tensor
    """`[n]` int64, each an index into the model's declared list of classes."""

    ids: tuple[str, ...]
    """`n` stable sample ids, unique."""

    def __post_init__(self) -> None:
        """Refuse rows that do not belong together.

        Raises:
            ValueError: on a wrong dtype or number of axes, unequal lengths, a negative label, or an id that occurs twice.
        """
        images = self.inputs.dtype == torch.uint8 and self.inputs.dim() == 4
        features = self.inputs.dtype == torch.float32 and self.inputs.dim() == 2
        if not (images or features):
            raise ValueError(f"inputs are [n, C, H, W] uint8 or [n, k] float32, not {list(self.inputs.shape)} {self.inputs.dtype}")
        if self.labels.dtype != torch.int64 or self.labels.dim() != 1:
            raise ValueError(f"labels are [n] int64, not {list(self.labels.shape)} {self.labels.dtype}")
        if not self.inputs.shape[0] == self.labels.shape[0] == len(self.ids):
            raise ValueError(f"{self.inputs.shape[0]} inputs, {self.labels.shape[0]} labels and {len(self.ids)} ids are not the same rows")
        if self.labels.numel() and int(self.labels.min()) < 0:
            raise ValueError("a label is negative: labels are indices into the list of classes")
        if len(set(self.ids)) != len(self.ids):
            raise ValueError("a sample id occurs twice")

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, rows: Tensor | Sequence[int] | Sequence[bool]) -> Samples:
        """Keep some rows, in the order asked for.

        Args:
            rows: `[n]` booleans (True = keep), or row numbers.
        """
        chosen = torch.as_tensor(rows)
        index = chosen.nonzero().flatten() if chosen.dtype == torch.bool else chosen.to(torch.int64).flatten()
        if chosen.dtype == torch.bool and chosen.shape != (len(self),):
            raise ValueError(f"a mask over {len(self)} rows has that many entries, not {list(chosen.shape)}")
        return Samples(self.inputs[index], self.labels[index], tuple(self.ids[i] for i in index.tolist()))

    def without(self, ids: Collection[str]) -> Samples:
        """Keep every row whose id is not among `ids`, in the same order."""
        gone = frozenset(ids)
        return self.select(torch.tensor([i not in gone for i in self.ids], dtype=torch.bool))
