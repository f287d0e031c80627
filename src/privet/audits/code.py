"""A run's task as code: model, loss and what examples look like, made anew from its settings."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from privet.base import Base
from privet.client.silo import load_local_data
from privet.client.training import loss_of
from privet.errors import DataError
from privet.experiment import Experiment
from privet.privacy.mechanisms import ExampleLoss, ExampleType
from privet.server.app import initial_model
from privet.tasks import Task, load_task
from privet.tasks.files import data_folder
from privet.tasks.task import constant_buffers


@dataclass(frozen=True)
class TrainingCode:
    """What a silo's training is made of, but for the records."""

    task: Task
    base: Base
    """Of the task's model, which has the weights that the run began with."""
    loss: ExampleLoss
    like: ExampleType

    @property
    def model(self) -> nn.Module:
        """The task's."""
        return self.base.module


def training_code(experiment: Experiment) -> TrainingCode:
    """Make the task that the experiment names; its code runs, and its data are read for their type.

    Without training data (those of real silos are with the silos) test data show the type. Raises
    what the task does, and DataError where no data are here.
    """
    task = load_task(
        experiment.task,
        model=experiment.model,
        data_dir=data_folder(None),
        options=experiment.data,
    )
    return TrainingCode(
        task,
        Base.of(
            initial_model(task, experiment, data_dir=data_folder(None)), constant_buffers(task)
        ),
        loss_of(task, experiment.training),
        _example_type(task, experiment),
    )


def _example_type(task: Task, experiment: Experiment) -> ExampleType:
    try:
        found = load_local_data(
            experiment, data_dir=data_folder(None), run_id=0, divided=False
        ).example_type
    except DataError:
        test = task.test_data()
        if test is None:
            raise
        return ExampleType.of(*test.batch(slice(0, 0)))
    return found
