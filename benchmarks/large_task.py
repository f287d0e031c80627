"""Two tasks with hardly any data; the model of one has 25 million parameters (100 MB)."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from privet import Examples

INPUTS, CLASSES = 4_999, 5_000


class Large:
    """One linear layer: 5,000 x 5,000 parameters with its bias."""

    def __init__(self, *, model: str | None = None, data_dir: Path | None = None) -> None:
        pass

    def model(self) -> nn.Module:
        return nn.Linear(INPUTS, CLASSES)

    def train_data(self) -> Examples:
        generator = torch.Generator().manual_seed(0)
        inputs = torch.rand(24, INPUTS, generator=generator)
        return Examples(inputs, torch.arange(24))

    def test_data(self) -> None:
        return None

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        return {}


class Small(Large):
    """The same data, and 10,000 parameters."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.AvgPool1d(INPUTS), nn.Linear(1, CLASSES))
