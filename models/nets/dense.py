"""Networks without convolutions: `linear` and `mlp`, for images and for features."""

from __future__ import annotations

from math import prod

from torch import Tensor, nn

from models.nets.architecture import Architecture
from models.nets.layers import Network, activation

HIDDEN = (128, 64)


class Linear(Network):
    """One linear layer on the normalised inputs; its tap is the flattened input itself."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(prod(architecture.input_shape), architecture.classes)
        self.name_layers(taps=("flatten",), bottleneck="flatten")

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.flatten(self.input(inputs)))
        return logits


class Perceptron(Network):
    """Hidden layers `layer1`, `layer2`, ... (linear, activation), all of them taps, then `fc`."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture)
        self.flatten = nn.Flatten()
        width, names = prod(architecture.input_shape), []
        for depth, hidden in enumerate(architecture.hidden or HIDDEN, start=1):
            names.append(f"layer{depth}")
            self.add_module(names[-1], nn.Sequential(nn.Linear(width, hidden), activation(architecture.activation)))
            width = hidden
        self.fc = nn.Linear(width, architecture.classes)
        self.hidden = tuple(names)
        self.name_layers(taps=self.hidden, bottleneck=names[-1])

    def forward(self, inputs: Tensor) -> Tensor:
        x: Tensor = self.flatten(self.input(inputs))
        for name in self.hidden:
            x = self.get_submodule(name)(x)
        logits: Tensor = self.fc(x)
        return logits
