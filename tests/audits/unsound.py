"""Tasks for which no epsilon of DP-SGD holds."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from privet.tasks.digits import Digits


class Weighted(Digits):
    """One record of a rare class changes the divisor of all others."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, weight=torch.arange(1.0, 11.0))


class Centred(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        rows = inputs.flatten(1)
        return self.layer(rows - rows.mean(0))  # type: ignore[no-any-return]


class Coupled(Digits):
    """Every record moves what the model sees of the others."""

    def model(self) -> nn.Module:
        return Centred()
