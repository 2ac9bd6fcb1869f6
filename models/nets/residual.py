"""Residual networks: `resnet20` for small pictures, `resnet18` for larger ones, with the key names that public weights use."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from models.nets.architecture import Architecture
from models.nets.dense_layer import Dense
from models.nets.layers import Network, activation, image_channels

LARGE = 96  # pixels a side from which resnet18 begins with a strided 7x7 and a pooling, as on ImageNet


class Block(nn.Module):
    """Two 3x3 convolutions with batch normalisation, added to the input.

    Where the shape changes, the shortcut is a strided 1x1 convolution (`projected`), or every second pixel with zeros for the
    new channels (He et al.'s option A, which has no weights).
    """

    def __init__(self, before: int, width: int, *, stride: int, projected: bool, kind: str) -> None:
        super().__init__()
        self.stride, self.added = stride, width - before
        self.conv1 = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = activation(kind)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.act2 = activation(kind)
        self.downsample: nn.Module | None = None
        if projected and (stride > 1 or self.added):
            self.downsample = nn.Sequential(nn.Conv2d(before, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        if self.downsample is not None:
            shortcut = self.downsample(x)
        elif self.stride > 1 or self.added:
            front = self.added // 2
            shortcut = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, front, self.added - front))
        else:
            shortcut = x
        out: Tensor = self.act2(inner + shortcut)
        return out


class ResNet(Network):
    """A stem, stages `layer1`, `layer2`, ... of blocks, average pooling, and one last linear layer."""

    def __init__(
        self, architecture: Architecture, *, widths: tuple[int, ...], blocks: int, projected: bool, large: bool, last: str
    ) -> None:
        super().__init__(architecture)
        channels, kind = image_channels(architecture), architecture.activation
        size, stride = (7, 2) if large else (3, 1)
        self.conv1 = nn.Conv2d(channels, widths[0], size, stride=stride, padding=size // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.act1 = activation(kind)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if large else nn.Identity()
        stages, before = tuple(f"layer{i}" for i in range(1, len(widths) + 1)), widths[0]
        for name, width in zip(stages, widths, strict=True):
            strides = [1 if name == "layer1" else 2] + [1] * (blocks - 1)
            stage = []
            for step in strides:
                stage.append(Block(before, width, stride=step, projected=projected, kind=kind))
                before = width
            self.add_module(name, nn.Sequential(*stage))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.add_module(last, Dense(before, architecture.classes))
        self.parts = ("input", "conv1", "bn1", "act1", "maxpool", *stages, "pool", last)
        self.name_layers(taps=stages, bottleneck="pool")


def resnet20(architecture: Architecture) -> Network:
    """Three stages of three blocks, 16 to 64 channels, option A shortcuts. Source: He et al., CVPR 2016, section 4.2."""
    return ResNet(architecture, widths=(16, 32, 64), blocks=3, projected=False, large=False, last="linear")


def resnet18(architecture: Architecture) -> Network:
    """Four stages of two blocks, 64 to 512 channels, projected shortcuts. Source: He et al., CVPR 2016, table 1."""
    large = architecture.is_image and min(architecture.input_shape[1:]) >= LARGE
    return ResNet(architecture, widths=(64, 128, 256, 512), blocks=2, projected=True, large=large, last="fc")
