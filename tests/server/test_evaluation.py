"""The global model on the coordinator's test records, all together and silo by silo."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from privet.server.evaluation import Evaluator
from privet.tasks import Examples


@dataclass(frozen=True)
class _Sign:
    """Says 1 where the only input is positive."""

    name = "sign"

    def model(self) -> nn.Module:
        return nn.Linear(1, 1, bias=False)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs[:, 0] - targets).abs().mean()

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        return {"accuracy": float(((outputs[:, 0] > 0) == (targets > 0)).float().mean())}


def test_each_silo_is_measured_on_its_own_records_alone() -> None:
    inputs = torch.tensor([[1.0], [1.0], [-1.0], [1.0], [-1.0], [-1.0]])
    targets = torch.tensor([1, 1, 1, 0, 0, 0])
    silos = np.array([0, 0, 1, 1, 2, 2])
    examples = Examples(inputs, targets, silos, ("north", "south", "west", "absent"))
    found = Evaluator(_Sign(), examples)(np.ones(1, dtype=np.float32))  # type: ignore[arg-type]
    assert found.accuracy == 4 / 6 or abs(found.accuracy - 4 / 6) < 1e-6
    assert found.per_silo == {
        "north": {"loss": 0.0, "accuracy": 1.0},
        "south": {"loss": 1.5, "accuracy": 0.0},
        "west": {"loss": 1.0, "accuracy": 1.0},
    }
