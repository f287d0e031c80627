"""The example of a task of one's own works as its README says."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from privet.experiment import Experiment
from privet.tasks import check_examples, load_task
from privet.tasks.partitions import partition
from privet.tasks.task import Task

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_task"


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> Task:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    experiment = Experiment.from_file(EXAMPLE / "experiment.toml")
    monkeypatch.chdir(EXAMPLE)
    return load_task(experiment.task, options=experiment.data)


def test_its_data_are_what_its_script_writes(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("make_data", EXAMPLE / "make_data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write(tmp_path / "stays.csv")
    assert (tmp_path / "stays.csv").read_bytes() == (EXAMPLE / "stays.csv").read_bytes()


def test_its_hospitals_are_silos_with_examples_to_train_and_test_on(task: Task) -> None:
    train, test = task.train_data(), task.test_data()
    assert test is not None
    check_examples(train, "stays")
    assert (len(train), len(test)) == (240, 60)
    sizes = [len(part) for part in partition(train, silos=None, how="natural")]
    assert min(sizes) > 30
    assert sum(sizes) == 240


def test_its_model_learns_more_than_the_larger_class(task: Task) -> None:
    train, test = task.train_data(), task.test_data()
    assert test is not None
    torch.manual_seed(0)
    model = task.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(100):
        optimizer.zero_grad()
        task.loss(model(train.inputs), train.targets).backward()
        optimizer.step()
    larger = np.bincount(test.targets).max() / len(test)
    assert task.metrics(model(test.inputs), test.targets)["accuracy"] > larger + 0.1
