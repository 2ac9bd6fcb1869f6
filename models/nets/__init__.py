"""The networks by name, each built from a written form and a seed."""

from __future__ import annotations

from collections.abc import Callable

import torch

from models.nets.adapter import Adapter, adapter_of
from models.nets.architecture import ACTIVATIONS, Architecture
from models.nets.convolutional import ConvNet, ConvNet7
from models.nets.dense import Linear, Perceptron
from models.nets.layers import Network, initialise
from models.nets.mobile import MobileNetV2
from models.nets.residual import resnet18, resnet20

NETS: dict[str, Callable[[Architecture], Network]] = {
    "linear": Linear,
    "mlp": Perceptron,
    "convnet": ConvNet,
    "convnet7": ConvNet7,
    "resnet20": resnet20,
    "resnet18": resnet18,
    "mobilenet_v2": MobileNetV2,
}


def build(architecture: Architecture, seed: int) -> Network:
    """Build a network in float32, its weights drawn from `seed` alone; the global generator is left as it was.

    Raises:
        ValueError: on an unknown name, an input that this network does not take, or taps that it does not have.
    """
    if architecture.name not in NETS:
        raise ValueError(f"no network is called {architecture.name!r}; there are {', '.join(NETS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # layers draw while they are made; what counts is drawn below
        net = NETS[architecture.name](architecture)
    initialise(net, torch.Generator().manual_seed(seed))
    return net


__all__ = ["ACTIVATIONS", "NETS", "Adapter", "Architecture", "Network", "adapter_of", "build"]
