"""Silos of a simulated federation as tasks: all of one fixed partition, or one silo alone.

An experiment names such a task by module and class, and a cell's address is a hash over its
experiment: whoever renames either, gives every such cell a new folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from privet.client.silo import LocalData, load_local_data
from privet.errors import ExperimentError
from privet.experiment import Experiment
from privet.metrics import Metric, declared_by
from privet.tasks import Examples
from privet.tasks.task import constant_buffers, uncovered


class Dealt:
    """The task `of`, whose training records are partitioned into silos that are then natural ones.

    They are the silos that the table `federation` gives with this `seed`, whatever the seed of the
    experiment: cells of all seeds train on the same silos. Model, test records, loss and metrics
    are those of `of`.
    """

    def __init__(
        self,
        *,
        of: str,
        seed: int,
        federation: Mapping[str, Any],
        options: Mapping[str, Any] | None = None,
        model: str | None = None,
        data_dir: Path | None = None,
    ) -> None:
        whole = {"task": of, "data": options or {}, "seed": seed, "federation": federation}
        self._whole = Experiment.from_mapping({**whole, "model": model})
        self._data_dir = data_dir

    @property
    def uncovered(self) -> tuple[str, ...]:
        """Of the task `of`."""
        return uncovered(self._local_data.task)

    @property
    def constant_buffers(self) -> tuple[str, ...]:
        """Of the task `of`."""
        return constant_buffers(self._local_data.task)

    @property
    def declared_metrics(self) -> tuple[Metric, ...]:
        """Of the task `of`."""
        return declared_by(self._local_data.task)

    def __getattr__(self, name: str) -> Any:
        """What the task `of` has beside, of what an evaluation asks for."""
        if name not in ("constant", "pictures"):
            raise AttributeError(name)
        return getattr(self._local_data.task, name)

    def model(self) -> nn.Module:
        return self._local_data.task.model()

    def train_data(self) -> Examples:
        silos = self._local_data.silos
        owners = np.repeat(np.arange(len(silos)), [len(silo) for silo in silos])
        return Examples.joined(silos).of_silos(owners, self._local_data.names)

    def test_data(self) -> Examples | None:
        return self._local_data.task.test_data()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self._local_data.task.loss(outputs, targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        return self._local_data.task.metrics(outputs, targets)

    @property
    def _local_data(self) -> LocalData:
        return dealt(self._whole, data_dir=self._data_dir)


class OneSilo(Dealt):
    """The task `of` as one of those silos sees it: that silo's training records alone.

    What it holds out for [evaluation] is what it holds out in the federation: a coin for each
    record, by its content and the seed. Raises ExperimentError, with the data, for a silo that is
    not there.
    """

    def __init__(self, *, silo: str, **others: Any) -> None:
        super().__init__(**others)
        self._silo = silo

    def train_data(self) -> Examples:
        names = self._local_data.names
        if self._silo not in names:
            raise ExperimentError(f"data.silo = {self._silo!r}: the silos are {', '.join(names)}")
        return self._local_data.silos[names.index(self._silo)]


def dealt(experiment: Experiment, *, data_dir: Path | None) -> LocalData:
    """The experiment's silos with their records, read once for callers that follow each other.

    Torch's random state is left as it was.
    """
    # A task may draw from torch's own generator, from which the run that comes next draws as well.
    with torch.random.fork_rng(devices=[]):
        return load_local_data(experiment, data_dir=data_dir, run_id=0, divided=True)


def task_settings(kind: type[Dealt], experiment: Experiment, **more: Any) -> dict[str, Any]:
    """The settings `task` and `data` of an experiment with such a task in place of its own."""
    options = {"options": experiment.data} if experiment.data else {}
    data = {
        "of": experiment.task,
        "seed": experiment.seed,
        "federation": experiment.federation.model_dump(exclude_none=True),
    }
    return {"task": f"{kind.__module__}:{kind.__name__}", "data": data | options | more}
