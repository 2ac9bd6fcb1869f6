"""Plain convolutional networks: `convnet`, small and quick on a processor, and `convnet7`, IRENE's net for coloured digits."""

from __future__ import annotations

from torch import nn

from models.nets.architecture import Architecture
from models.nets.dense_layer import Dense
from models.nets.layers import Network, activation, image_channels

STAGES = ("stage1", "stage2", "stage3", "stage4")
CHANNELS = (16, 16, 32, 32)  # 16,698 weights at one input channel and ten classes
STRIDES = (1, 2, 2, 1)
CHANNELS7 = (16, 32, 64, 128)


class ConvNet(Network):
    """Four 3x3 convolutions with activations, two of them strided, then average pooling and `fc`.

    No batch normalisation: 16,698 parameters in float32 are all that the core is at 28 x 28 gray.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture)
        before, widths = image_channels(architecture), architecture.hidden or CHANNELS
        if len(widths) != len(STAGES):
            raise ValueError(f"convnet has {len(STAGES)} stages, hidden names {len(widths)}")
        for name, width, stride in zip(STAGES, widths, STRIDES, strict=True):
            convolution = nn.Conv2d(before, width, 3, stride=stride, padding=1)
            self.add_module(name, nn.Sequential(convolution, activation(architecture.activation)))
            before = width
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = Dense(before, architecture.classes)
        self.parts = ("input", *STAGES, "pool", "fc")
        self.name_layers(taps=STAGES, bottleneck="pool")


class ConvNet7(Network):
    """Four 7x7 convolutions with batch normalisation, 16 to 128 channels, the last activation Tanh, global average pool, `fc`.

    Source: Tartaglione, BMVC 2022, section 4 (Biased-MNIST). https://arxiv.org/abs/2210.00891
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture)
        before = image_channels(architecture)
        for name, width in zip(STAGES, CHANNELS7, strict=True):
            last = nn.Tanh() if name == STAGES[-1] else activation(architecture.activation)
            convolution = nn.Conv2d(before, width, 7, padding=3, bias=False)
            self.add_module(name, nn.Sequential(convolution, nn.BatchNorm2d(width), last))
            before = width
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = Dense(before, architecture.classes)
        self.parts = ("input", *STAGES, "pool", "fc")
        self.name_layers(taps=STAGES, bottleneck="pool")
