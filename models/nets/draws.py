"""The chance of a stochastic bottleneck: one draw an input, a function of the input's bytes and a secret key, the same for ever.

    seed = HMAC-SHA256(key, "expunge draw 1" | link | dtype | shape | the values, row-major, little-endian, -0 as 0)
    u_k  = (the k-th 8 bytes of SHAKE-256(seed), little-endian, without their 11 lowest bits, + 1/2) / 2^53

Whoever could ask for a second draw of the same input would average the chance away: a hundred fresh draws show most of what one hides.
"""

from __future__ import annotations

import hashlib
import hmac

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor

KEY_BYTES = 32
DOMAIN = b"expunge draw 1"


def uniforms(key: bytes, inputs: Tensor, count: int, *, link: int = 0) -> Tensor:
    """Draw numbers strictly between 0 and 1 for each input.

    Args:
        key: 32 secret bytes.
        inputs: `[n, C, H, W]` uint8 or `[n, k]` float32, raw, as the caller sent them.
        count: numbers an input.
        link: place in a chain of adapters: two links draw independently.

    Returns:
        `[n, count]` float64.
    """
    rows = _canonical(inputs)
    name = f"|{link}|{rows.dtype.name}|{','.join(map(str, rows.shape[1:]))}|".encode()
    drawn = np.empty((len(rows), count), dtype=np.float64)
    for place, row in enumerate(rows):
        seed = hmac.digest(key, DOMAIN + name + row.tobytes(), "sha256")
        words = np.frombuffer(hashlib.shake_256(seed).digest(8 * count), dtype="<u8")
        drawn[place] = ((words >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
    return torch.from_numpy(drawn)


def normals(key: bytes, inputs: Tensor, count: int, *, link: int = 0) -> Tensor:
    """Draw standard normal numbers, `[n, count]` float64: the quantiles of `uniforms`."""
    return torch.from_numpy(ndtri(uniforms(key, inputs, count, link=link).numpy()))


def _canonical(inputs: Tensor) -> NDArray[np.generic]:
    values = inputs.detach().cpu().contiguous().numpy()
    if values.dtype == np.uint8:
        return values
    return (values + np.float32(0)).astype("<f4")
