"""How good the global model is on test records that the coordinator may see."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from privet.devices import CPU, Device
from privet.errors import DataError
from privet.privacy.mechanisms import ExampleLoss
from privet.pytrees import Tree, applied, at, joined, rows
from privet.tasks import Examples, Task
from privet.tasks.task import constant_buffers, evaluated, task_errors
from privet.vectors import FlatModel, Vector

_BATCH = 512
"""Twice as many take a small convolution out of the cache, and half as long again."""


@dataclass(frozen=True)
class Scores:
    """Loss and metrics on the test records, and for each natural silo's own test records."""

    loss: float | None
    metrics: dict[str, float]
    per_silo: dict[str, dict[str, float]] | None
    problems: tuple[str, ...] = ()
    """Figures that are no finite numbers: such are None or left out."""

    @property
    def accuracy(self) -> float | None:
        """Share of right answers, where the task has such a metric."""
        return self.metrics.get("accuracy")


class Evaluator:
    """Evaluates weights on fixed test records."""

    def __init__(
        self,
        task: Task,
        test: Examples,
        model: FlatModel | None = None,
        device: Device = CPU,
    ) -> None:
        """`model` is one of the task's that nobody else uses meanwhile; unset: a new one."""
        if len(test) == 0:
            raise DataError("the test data have no records")
        self._task = task
        self._test = test
        self._device = device
        model = model or FlatModel(task.model(), constant=constant_buffers(task))
        self.model = model if device.on_cpu else model.on(device)
        self._there = test.on(device)
        self.model.module.eval()

    def __call__(self, weights: Vector) -> Scores:
        """Evaluate `weights`, shape (d,)."""
        self.model.load(weights)
        with task_errors("the model or a metric fails on the test records"):
            outputs, targets = self._evaluated(self._there)
            everything = self._measure(outputs, targets)
            by_silo = self._by_silo(outputs, targets)
        return _scores(everything, by_silo)

    def baselines(self) -> dict[str, float]:
        """Figures of an answer that is the same for every test record, of a task that has such."""
        constant = getattr(self._task, "constant", None)
        if constant is None:
            return {}
        with task_errors("a metric fails on constant outputs"):
            targets = self._test.targets
            return _finite(self._measure(constant(targets), targets))

    def pictures(self, weights: Vector) -> list[object]:
        """Counts of `weights`' predictions to draw, of a task that has such."""
        counts = getattr(self._task, "pictures", None)
        if counts is None:
            return []
        self.model.load(weights)
        with task_errors("the task's pictures fail on the test records"):
            return list(counts(*self._evaluated(self._there)))

    def _evaluated(self, examples: Examples) -> tuple[Any, Tree]:
        return evaluated(self.model.module, examples, at_once=_BATCH, device=self._device)

    def _measure(self, outputs: Any, targets: Tree) -> dict[str, float]:
        loss = float(ExampleLoss(self._task.loss)(outputs, targets))
        metrics = self._task.metrics(outputs, targets)
        # Numbers of numpy and torch are numbers, too.
        return {"loss": loss, **{name: float(value) for name, value in metrics.items()}}

    def _by_silo(self, outputs: Any, targets: Tree) -> dict[str, dict[str, float]] | None:
        if self._test.silo is None:
            return None
        by_silo = {}
        for index, name in enumerate(self._test.silo_names):
            own = torch.from_numpy(self._test.silo == index)
            if own.any():
                measured = self._measure(at(outputs, own), at(targets, own))
                by_silo[name] = _finite(measured)
        return by_silo


class OwnModels(Evaluator):
    """Evaluates every silo's own model: the shared weights and what the silo keeps of its own.

    Of natural silos each on its own test records, else each on all of them. The figures of all are
    over every record that was measured.
    """

    def __init__(
        self,
        task: Task,
        test: Examples,
        model: FlatModel,
        device: Device = CPU,
        *,
        parts: Callable[[], Mapping[str, Vector | None]],
        natural: bool,
    ) -> None:
        """`parts`: what each silo keeps now; None of one that has not trained."""
        super().__init__(task, test, model, device)
        self._parts, self._natural = parts, natural

    def __call__(self, weights: Vector) -> Scores:
        """Evaluate the shared `weights`, shape (d,), with every silo's own part."""
        with task_errors("the model or a metric fails on the test records"):
            measured = dict(self._each(weights))
            outputs, targets = (joined(each) for each in zip(*measured.values(), strict=True))
            by_silo = {name: _finite(self._measure(*each)) for name, each in measured.items()}
            return _scores(self._measure(outputs, targets), by_silo)

    def _each(self, weights: Vector) -> Iterator[tuple[str, tuple[Any, Tree]]]:
        """Each silo's name, with the outputs of its model and the targets."""
        for name, own in self._parts().items():
            test = self._test
            if self._natural and test.silo is not None:
                rows = test.silo == test.silo_names.index(name)
                test = test.take(np.flatnonzero(rows))
            if len(test):
                self.model.load(self.model.joined(weights, own))
                yield name, self._evaluated(test)


def _scores(everything: dict[str, float], by_silo: dict[str, dict[str, float]] | None) -> Scores:
    finite = _finite(everything)
    odd = tuple(f"{name} is not finite" for name in everything if name not in finite)
    return Scores(finite.pop("loss", None), finite, by_silo, odd)


def outputs_of(module: nn.Module, inputs: Tree) -> Any:
    """What the model says of each of `inputs`, in batches: equal ones give equal bits."""
    starts = range(0, max(1, rows(inputs)), _BATCH)
    parts = [at(inputs, slice(start, start + _BATCH)) for start in starts]
    return joined([applied(module, part) for part in parts])


def _finite(figures: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if math.isfinite(value)}
