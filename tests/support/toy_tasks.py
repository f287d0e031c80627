"""Small tasks for tests that need a name: task = "toy_tasks:Tiny"."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from privet import Examples
from privet.tasks.digits import Digits


class Tiny:
    """Two classes on a line; with a `secret`, reading it fails and quotes the secret."""

    def __init__(self, *, model: str | None, data_dir: Path | None, secret: str = "") -> None:
        self.data_dir = data_dir
        self.secret = secret

    def model(self) -> nn.Module:
        return nn.Linear(2, 2)

    def train_data(self) -> Examples:
        if self.secret:
            raise ValueError(f"cannot parse record: {self.secret}")
        inputs = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(10, 1)
        return Examples(inputs, torch.tensor([0, 1]).repeat(10))

    def test_data(self) -> None:
        return None

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        return {"accuracy": float((outputs.argmax(1) == targets).float().mean())}


class Boundless(Tiny):
    """Its "accuracy" is whatever a record says."""

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        return {"accuracy": 1e9 * float(targets.float().mean())}


class Talkative(Tiny):
    """It measures more than the holder expects, under a name that says something."""

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        return {**super().metrics(outputs, targets), "Jane Doe": 1.0}


class Aligned(Tiny):
    """A model that centres each batch of an evaluation."""

    def model(self) -> nn.Module:
        class Centring(nn.Linear):
            def forward(self, inputs: Tensor) -> Tensor:
                return super().forward(inputs if self.training else inputs - inputs.mean(0))

        return Centring(2, 2)


class WithBatchNorm(Tiny):
    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


class Doubling(Tiny):
    """A model of another size than the server's."""

    def model(self) -> nn.Module:
        return nn.Linear(2, 2, bias=False)


class Empty(Tiny):
    """No records at all."""

    def train_data(self) -> Examples:
        return super().train_data().take(slice(0, 0))


class NotNumbers(Tiny):
    """Three values in two records are not numbers."""

    def train_data(self) -> Examples:
        whole = super().train_data()
        inputs = whole.inputs.clone()
        inputs[3] = float("nan")
        inputs[5, 1] = float("inf")
        return Examples(inputs, whole.targets)


class OneClassEach(Tiny):
    """Two natural silos, each with one class only."""

    def train_data(self) -> Examples:
        whole = super().train_data()
        return Examples(whole.inputs, whole.targets, whole.targets.numpy(), ("zeros", "ones"))


class Fewer(Tiny):
    """The same records but one."""

    def train_data(self) -> Examples:
        return super().train_data().take(slice(1, 20))


class DigitsButOne(Digits):
    """The digits without one of the records."""

    def train_data(self) -> Examples:
        whole = super().train_data()
        return whole.take([row for row in range(len(whole)) if row != 700])


class OneBadRecord(Tiny):
    """A record in the first silo of four is of a class that the model does not have."""

    def train_data(self) -> Examples:
        whole = super().train_data()
        inputs, targets = whole.inputs.repeat(3, 1), whole.targets.repeat(3)
        targets[7] = 7
        return Examples(inputs, targets)
