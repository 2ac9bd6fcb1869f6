"""`mobilenet_v2`, the net whose pretrained weights serve as a core: its public key names, each stage a part of the chain."""

from __future__ import annotations

from torch import Tensor, nn

from models.nets.architecture import Architecture
from models.nets.dense_layer import Dense
from models.nets.layers import Network, image_channels

FIRST, LAST = 32, 1280  # channels of the first and of the last convolution
GROUPS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, blocks and stride of the first block of each group: table 2."""

TAPS = ("features.1", "features.3", "features.6", "features.10", "features.13", "features.16", "features.17", "features.18")
"""The ends of the groups and the last convolution: 1,992 channels, so that they are averaged over the whole image."""


class Inverted(nn.Module):
    """Widen by a 1x1 convolution, filter each channel by a 3x3, narrow by a 1x1 without activation; added to an input of that shape."""

    def __init__(self, before: int, width: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        inner = before * expansion
        self.added = stride == 1 and before == width
        widen = [normalised(before, inner, size=1)] if expansion > 1 else []
        filtered = normalised(inner, inner, size=3, stride=stride, groups=inner)
        self.conv = nn.Sequential(*widen, filtered, nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return x + out if self.added else out


class MobileNetV2(Network):
    """`features.0` to `features.18`, average pooling and `classifier`, each a part; 3.4 million parameters at 1,000 classes.

    The activation is ReLU6 whatever the architecture's field says: it is what the public weights were trained with. The place of the
    dropout before the last layer is kept, so that names agree, but nothing is dropped: the same seed trains to the same bits.

    Source: Sandler et al., CVPR 2018. https://arxiv.org/abs/1801.04381
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture)
        stages: list[nn.Module] = [normalised(image_channels(architecture), FIRST, size=3, stride=2)]
        before = FIRST
        for expansion, width, blocks, stride in GROUPS:
            for number in range(blocks):
                stages.append(Inverted(before, width, stride=stride if number == 0 else 1, expansion=expansion))
                before = width
        self.features = nn.Sequential(*stages, normalised(before, LAST, size=1))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Sequential(nn.Identity(), Dense(LAST, architecture.classes))
        self.parts = ("input", *(f"features.{number}" for number in range(len(self.features))), "pool", "classifier")
        self.name_layers(taps=TAPS, bottleneck="pool")


def normalised(before: int, width: int, *, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a convolution without bias, its batch normalisation and ReLU6."""
    convolution = nn.Conv2d(before, width, size, stride=stride, padding=size // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU6())
