"""A task of a person's own that predicts a number: task = "own_metrics:Line"."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from privet import Examples, Metric

SPREAD = 40.0


class Undeclared:
    """Price of a house by its size, in thousands of dollars; figures without a declaration."""

    def __init__(self, *, model: str | None = None, data_dir: Path | None = None) -> None:
        self.data_dir = data_dir

    def model(self) -> nn.Module:
        return nn.Linear(1, 1)

    def train_data(self) -> Examples:
        return self._some(slice(0, 96))

    def test_data(self) -> Examples | None:
        return self._some(slice(96, 128))

    def _some(self, rows: slice) -> Examples:
        sizes = torch.linspace(-1, 1, 128)[torch.randperm(128, generator=_seeded())]
        noise = torch.randn(128, generator=_seeded().manual_seed(6))
        prices = SPREAD * (1 + sizes) + 4 * noise
        return Examples(sizes[rows, None], prices[rows] / SPREAD)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.mse_loss(outputs[:, 0], targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        errors = SPREAD * (outputs[:, 0] - targets)
        # Numbers of numpy and torch are numbers.
        return {
            "r2": 1 - errors.square().mean() / (SPREAD * targets).var(correction=0),  # type: ignore[dict-item]
            "rmse": np.sqrt(errors.square().mean().numpy()),
        }


class Line(Undeclared):
    """The same, and which way is better."""

    declared_metrics = (
        Metric("rmse", higher_is_better=False, unit="kUSD"),
        Metric("r2"),
    )


class Twice(Undeclared):
    """A name twice."""

    declared_metrics = (Metric("rmse"), Metric("rmse", higher_is_better=False))


class Words(Undeclared):
    """A name is no metric."""

    declared_metrics = ("rmse",)


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)
