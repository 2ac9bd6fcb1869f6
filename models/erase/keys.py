"""Secret keys of stochastic links: without one nothing is served, with another every draw is another."""

from __future__ import annotations

import copy

import torch

from models.erase.scope import extended
from models.nets import Adapter, Network
from models.nets.bottleneck import Noise, Quantized
from models.nets.draws import KEY_BYTES


def rekeyed(net: Network, key: bytes) -> Network:
    """Return the network with this key in all of its stochastic links; links of one network draw independently all the same.

    A second key means a second draw of every input: whoever sees both learns more than the stated information.

    Args:
        key: 32 bytes from a cryptographic generator, not all zero.
    """
    if len(key) != KEY_BYTES or not any(key):
        raise ValueError(f"a key is {KEY_BYTES} bytes, not all of them zero")
    out = copy.deepcopy(net)
    for link in out.links.children():
        if isinstance(link, Quantized | Noise):
            link.key.copy_(torch.tensor(list(key), dtype=torch.uint8))
    return out


def with_noise(net: Network, sigma: float, key: bytes, *, seed: int = 0) -> Network:
    """Return the network with noise of this standard deviation after its bottleneck, and after the adapter that is there."""
    return rekeyed(extended(net, Adapter(kind="noise", sigma=sigma), seed=seed), key)
