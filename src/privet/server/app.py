"""The ServerApp: one experiment from the first weights to the written summary."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from logging import INFO
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context
from flwr.common.logger import log
from flwr.serverapp import Grid, ServerApp

from privet.data_folder import data_folder
from privet.errors import ExperimentError
from privet.experiment import Experiment
from privet.progress import describe
from privet.randomness import stream, torch_seed
from privet.server.evaluation import Evaluator
from privet.server.folder import SUMMARY, RunFolder
from privet.server.rounds import Coordinator, Memory, Watch
from privet.server.summary import summarise
from privet.strategies import Strategy, load_strategy
from privet.tasks import Task, load_task
from privet.vectors import FlatModel


def look_away(entry: Mapping[str, Any]) -> None:
    """Watch nothing."""


def log_line(entry: Mapping[str, Any]) -> None:
    """A line a round in Flower's own log."""
    log(INFO, "round %s  %s", entry["round"], describe(entry))


@dataclass(frozen=True)
class Hosting:
    """Where a run is written down and who looks on; nothing here changes its result."""

    folder: Path | None = None
    """The run folder; unset: the run config's `out`, else privet-<run id> where the server runs."""
    data_dir: Path | None = None
    resume: bool = False
    watch: Watch = log_line
    memory: Memory | None = None


def server_app(hosting: Hosting | None = None) -> ServerApp:
    """A ServerApp that runs the experiment of its run config."""
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        run(grid, context, hosting or Hosting())

    return server


def run(grid: Grid, context: Context, hosting: Hosting) -> None:
    """Run (or resume) the experiment and leave a finished run folder."""
    config = dict(context.run_config)
    folder = RunFolder(hosting.folder or Path(str(config.pop("out", f"privet-{context.run_id}"))))
    experiment = Experiment.from_run_config(config)
    strategy = check(experiment)
    task = load_task(
        experiment.task,
        model=experiment.model,
        data_dir=data_folder(hosting.data_dir),
        options=experiment.data,
    )
    resumed = hosting.resume and folder.holds_a_run()
    checkpoint = folder.reopen(experiment) if resumed else None
    if not resumed:
        folder.create(experiment)
    start = time.perf_counter()
    model = FlatModel(initial_model(task, experiment))
    test = task.test_data()
    coordinator = Coordinator(
        grid,
        experiment,
        strategy,
        folder=folder,
        evaluate=None if test is None else Evaluator(task, test),
        watch=hosting.watch,
        memory=hosting.memory,
    )
    outcome = coordinator.run(model.vector(), checkpoint)
    model.load(outcome.weights)
    folder.save_model({name: value.numpy() for name, value in model.module.state_dict().items()})
    folder.save_json(SUMMARY, summarise(experiment, outcome, seconds=time.perf_counter() - start))


def check(experiment: Experiment) -> Strategy:
    """The experiment's strategy; ExperimentError for a combination that voids a guarantee."""
    strategy = load_strategy(experiment.strategy.name, experiment.strategy.options)
    if experiment.privacy is not None and strategy.needs_loss:
        raise ExperimentError(
            f"strategy.name = '{strategy.name}' needs every silo's training loss, which no noise "
            "covers; it cannot be used with [privacy]"
        )
    training = experiment.training
    if strategy.plain_sgd and (training.optimizer != "sgd" or training.momentum > 0):
        raise ExperimentError(
            f"strategy.name = '{strategy.name}' needs plain SGD in the silos: "
            'training.optimizer = "sgd" and training.momentum = 0'
        )
    return strategy


def initial_model(task: Task, experiment: Experiment) -> torch.nn.Module:
    """The task's model with weights that follow from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(stream(experiment.seed, "weights")))
        return task.model()


app = server_app()
