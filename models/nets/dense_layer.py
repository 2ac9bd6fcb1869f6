"""A linear layer in which a row's bits do not depend on its place in the batch."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


def padded(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x W^T + b, the number of inputs filled up with zeros to a multiple of 16.

    Otherwise the matrix product of some processors adds up what is left over of a vector in another order for the last rows of a batch
    than for the first.
    """
    missing = -weight.shape[1] % 16
    if not missing:
        return functional.linear(inputs, weight, bias)
    return functional.linear(functional.pad(inputs, (0, missing)), functional.pad(weight, (0, missing)), bias)


class Dense(nn.Linear):
    """`nn.Linear` by `padded` products."""

    def forward(self, inputs: Tensor) -> Tensor:
        return padded(inputs, self.weight, self.bias)
