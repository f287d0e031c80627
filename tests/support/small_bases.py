"""Networks that stand for pretrained ones: data.base = "small_bases:convolutions"."""

from __future__ import annotations

import torch
from torch import nn


def convolutions(seed: int = 3) -> nn.Module:
    """Eight features of colour images; a BatchNorm and a Dropout as pretrained networks have."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5)
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def others() -> nn.Module:
    return convolutions(4)


def maps() -> nn.Module:
    """No features: what is left has height and width."""
    return nn.Conv2d(3, 8, 3)


def number() -> int:
    return 3
