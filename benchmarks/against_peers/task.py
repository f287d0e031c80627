"""The workloads as a task of privet's."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F
from workloads import WORKLOADS, clients_of, new_model, test_set

from privet import Examples


class Clients:
    """The clients of a workload as natural silos."""

    def __init__(self, *, model: str | None, data_dir: Path | None, workload: str) -> None:
        self.workload = WORKLOADS[workload]

    def model(self) -> nn.Module:
        return new_model(self.workload)

    def train_data(self) -> Examples:
        return self._train

    @cached_property
    def _train(self) -> Examples:
        inputs, targets = clients_of(self.workload)
        clients, records = targets.shape
        names = tuple(f"client-{number}" for number in range(clients))
        silo = np.repeat(np.arange(clients), records)
        return Examples(inputs.flatten(0, 1), targets.flatten(), silo, names)

    def test_data(self) -> Examples:
        return Examples(*test_set())

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        return {"accuracy": float((outputs.argmax(1) == targets).float().mean())}
