"""How good the global model is on test records that the coordinator may see."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from privet.errors import DataError
from privet.privacy.mechanisms import ExampleLoss
from privet.tasks import Examples, Task
from privet.vectors import FlatModel, Vector

_BATCH = 512
"""Twice as many take a small convolution out of the cache, and half as long again."""


@dataclass(frozen=True)
class Scores:
    """Loss and metrics on the test records, and for each natural silo's own test records."""

    loss: float
    metrics: dict[str, float]
    per_silo: dict[str, dict[str, float]] | None

    @property
    def accuracy(self) -> float | None:
        """Share of right answers, where the task has such a metric."""
        return self.metrics.get("accuracy")


class Evaluator:
    """Evaluates weights on fixed test records."""

    def __init__(self, task: Task, test: Examples) -> None:
        if len(test) == 0:
            raise DataError("the test data have no records")
        self._task = task
        self._test = test
        self._model = FlatModel(task.model().eval())

    def __call__(self, weights: Vector) -> Scores:
        """Evaluate `weights`, shape (d,)."""
        self._model.load(weights)
        outputs = self._outputs()
        everything = self._measure(outputs, self._test.targets)
        loss = everything.pop("loss")
        return Scores(loss, everything, self._by_silo(outputs))

    def _outputs(self) -> Tensor:
        with torch.no_grad():
            return torch.cat(
                [self._model.module(part) for part in torch.split(self._test.inputs, _BATCH)]
            )

    def _measure(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        loss = float(ExampleLoss(self._task.loss)(outputs, targets))
        return {"loss": loss, **self._task.metrics(outputs, targets)}

    def _by_silo(self, outputs: Tensor) -> dict[str, dict[str, float]] | None:
        if self._test.silo is None:
            return None
        by_silo = {}
        for index, name in enumerate(self._test.silo_names):
            rows = torch.from_numpy(self._test.silo == index)
            if rows.any():
                by_silo[name] = self._measure(outputs[rows], self._test.targets[rows])
        return by_silo
