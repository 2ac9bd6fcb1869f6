"""Networks without convolutions: `linear` and `mlp`, for images and for features."""

from __future__ import annotations

from math import prod

from torch import nn

from models.nets.architecture import Architecture
from models.nets.dense_layer import Dense
from models.nets.layers import Network, activation

HIDDEN = (128, 64)


class Linear(Network):
    """One linear layer on the normalised inputs; its tap is the flattened input itself."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture)
        self.flatten = nn.Flatten()
        self.fc = Dense(prod(architecture.input_shape), architecture.classes)
        self.parts = ("input", "flatten", "fc")
        self.name_layers(taps=("flatten",), bottleneck="flatten")


class Perceptron(Network):
    """Hidden layers `layer1`, `layer2`, ... (linear, activation), all of them taps, then `fc`."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture)
        self.flatten = nn.Flatten()
        width, names = prod(architecture.input_shape), []
        for depth, hidden in enumerate(architecture.hidden or HIDDEN, start=1):
            names.append(f"layer{depth}")
            self.add_module(names[-1], nn.Sequential(Dense(width, hidden), activation(architecture.activation)))
            width = hidden
        self.fc = Dense(width, architecture.classes)
        self.parts = ("input", "flatten", *names, "fc")
        self.name_layers(taps=tuple(names), bottleneck=names[-1])
