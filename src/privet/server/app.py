"""The ServerApp: one experiment from the first weights to the written summary."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from logging import INFO
from pathlib import Path

import numpy as np
import torch
from flwr.app import Context
from flwr.common.logger import log
from flwr.serverapp import Grid, ServerApp

from privet.base import Base
from privet.devices import CPU, Device
from privet.errors import DataError, ExperimentError
from privet.experiment import Experiment
from privet.metrics import declared_by
from privet.privacy.encryption import make_cipher
from privet.privacy.encryption.keys import load_roster
from privet.record.card import card_of
from privet.record.folder import RunFolder
from privet.record.history import RoundRecord, Watch
from privet.server.choosing import BestModel, refuse_validation
from privet.server.cohort import IdentifyNode
from privet.server.evaluation import Evaluator, OwnModels
from privet.server.models import ClearModel, GlobalModel
from privet.server.rounds import Coordinator, RunOutcome, SiloMemory
from privet.server.sealing import OpenModel, SealedModel
from privet.server.start import begin_from
from privet.server.summary import TestedBeside, claimed, facts_of, summarise, with_still
from privet.strategies import Strategy, load_strategy
from privet.tasks import Examples, Task, load_task
from privet.tasks.datasets import TABLE, demand_schema
from privet.tasks.files import data_folder
from privet.tasks.task import constant_buffers, seeded_model
from privet.vectors import FlatModel


def log_line(entry: RoundRecord) -> None:
    """A line a round in Flower's own log."""
    log(INFO, "round %s  %s", entry.round, entry.describe())


@dataclass(frozen=True)
class Hosting:
    """Where a run is written down and who looks on; nothing here changes its result."""

    folder: Path | None = None
    """The run folder; unset: the run config's `out`, else privet-<run id> where the server runs."""
    data_dir: Path | None = None
    simulated: bool = False
    """Whoever runs this has all records: files are read where the experiment names them."""
    resume: bool = False
    watch: Watch = log_line
    memory: SiloMemory | None = None
    roster: Path | None = None
    """With encryption: the silos' identity keys. Unset: the run config's `roster`."""
    identify: IdentifyNode | None = None
    """Who is at which node, where the host knows. Unset: silos are believed."""
    open_model: OpenModel | None = None
    """Reads a sealed model, where this process is a key holder's too: in a simulation."""
    validation: Examples | None = None
    """With [validation]: the records to choose a model by, in a simulation."""
    sized: Callable[[int], None] = lambda _: None
    """Told the number of values that the model trains, before silos are asked for any."""
    note: str = ""
    """A line above the settings in the run folder."""
    run: str | None = None
    """What silos know an encrypted run as; unset: by its number at Flower's server."""
    device: Device | None = None
    """Where all of a simulation is computed; unset: the model is measured on the CPU."""


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
    # `out` and `roster` are taken off: an experiment refuses keys that it does not know.
    folder = RunFolder(hosting.folder or Path(str(config.pop("out", f"privet-{context.run_id}"))))
    roster = hosting.roster or _path(config.pop("roster", None))
    experiment = Experiment.from_run_config(config)
    strategy = check(experiment)
    task = _task(experiment, hosting)
    declared = declared_by(task)
    test = _test_data(task, hosting)
    measured = _measured_in_rounds(experiment, test, hosting)
    # After `check` and `load_task`: what they refuse leaves no folder behind.
    resumed = hosting.resume and folder.holds_a_run()
    checkpoint = folder.reopen(experiment) if resumed else None
    if not resumed:
        folder.create(experiment, note=hosting.note)
    start = time.perf_counter()
    run_name = hosting.run or f"run-{context.run_id}"
    flat = first_model(
        task, experiment, data_dir=data_folder(hosting.data_dir), held=not hosting.simulated
    )
    hosting.sized(sum(flat.shared_sizes))
    if checkpoint is not None:
        folder.check_base(checkpoint, flat.unsent)
    device = hosting.device or CPU
    evaluate = _evaluator(task, experiment, measured, flat, hosting.memory, device)
    facts, marks = facts_of(flat), flat.marks()
    model = _global_model(grid, experiment, strategy, flat, roster, hosting.open_model, run_name)
    del flat  # without an evaluator nobody needs a second model in memory
    coordinator = Coordinator(
        grid,
        experiment,
        strategy,
        model,
        folder=folder,
        evaluate=evaluate,
        watch=hosting.watch,
        memory=hosting.memory,
        identify=hosting.identify,
        best=_best_model(experiment, hosting.validation),
        headline=next(iter(declared), None),
    )
    outcome, tested, beside = coordinator.run(checkpoint), None, TestedBeside()
    if outcome.weights is not None:
        final = (
            evaluate.model
            if evaluate
            else _flat(seeded_model(task, experiment.seed), task, experiment)
        )
        final.load(final.joined(outcome.weights))
        facts = with_still(facts, marks, final, outcome)
        if test is not None:
            tester = Evaluator(task, test, final, device)
            # Of a model that was chosen: the one time that test records are looked at.
            tested = tester(outcome.weights) if outcome.best else None
            # With parts that stay in the silos there are many models, and none to draw.
            beside = TestedBeside.of(tester, None if final.local else outcome.weights)
        _save(final, folder, task, experiment, outcome, hosting, base=facts.base_digest)
    seconds = time.perf_counter() - start
    folder.save_summary(
        summarise(
            experiment,
            outcome,
            facts,
            tested,
            declared=declared,
            beside=beside,
            seconds=seconds,
            device=hosting.device,
        )
    )


def _task(experiment: Experiment, hosting: Hosting) -> Task:
    if experiment.task == TABLE and not hosting.simulated:
        demand_schema(experiment.data)
    return load_task(
        experiment.task,
        model=experiment.model,
        data_dir=data_folder(hosting.data_dir),
        options=experiment.data,
        held=not hosting.simulated,
    )


def _save(
    final: FlatModel,
    folder: RunFolder,
    task: Task,
    experiment: Experiment,
    outcome: RunOutcome,
    hosting: Hosting,
    *,
    base: str | None,
) -> None:
    """Write the model with its card, and in a simulation what each silo has of its own."""
    if final.local and hosting.memory is not None:
        folder.save_own_parts(dict(_own_parts(final, hosting.memory)))
    card = card_of(
        task,
        experiment,
        base=base,
        claim=claimed(task, experiment, outcome, simulated=hosting.simulated),
        learned=hosting.simulated,
    )
    folder.save_model({name: value.numpy() for name, value in final.state().items()}, card=card)


def _test_data(task: Task, hosting: Hosting) -> Examples | None:
    """What the global model is measured on, if there is anything; a real server needs no data."""
    try:
        return task.test_data()
    except DataError as error:
        if hosting.simulated:
            raise
        log(INFO, "the model is not evaluated here: %s", error)
        return None


def _evaluator(
    task: Task,
    experiment: Experiment,
    test: Examples | None,
    model: FlatModel,
    memory: SiloMemory | None,
    device: Device,
) -> Evaluator | None:
    """What measures the model here: with `federation.local` each silo's own, where they are."""
    if test is None:
        return None
    if not model.local:
        return Evaluator(task, test, model, device)
    if memory is None:
        log(INFO, "the model is not evaluated here: %s stay in the silos", ", ".join(model.local))
        return None
    federation = experiment.federation
    natural = (federation.partition or "natural") == "natural" and federation.silos is None
    return OwnModels(task, test, model, device, parts=memory.own_parts, natural=natural)


def _own_parts(model: FlatModel, memory: SiloMemory) -> Iterator[tuple[str, np.ndarray]]:
    """What each silo keeps of its own, a tensor for "silo/name"; of those that trained."""
    for silo, own in memory.own_parts().items():
        if own is not None:
            yield from ((f"{silo}/{name}", part) for name, part in model.own_state(own).items())


def _measured_in_rounds(
    experiment: Experiment, test: Examples | None, hosting: Hosting
) -> Examples | None:
    """Records that the model is measured on after every round."""
    if experiment.validation is None:
        return test
    if hosting.validation is None:
        refuse_validation(experiment)
    return hosting.validation


def _best_model(experiment: Experiment, validation: Examples | None) -> BestModel | None:
    if experiment.validation is None or validation is None:
        return None
    return BestModel(records=len(validation), patience=experiment.validation.patience)


def _path(value: object) -> Path | None:
    return None if value is None else Path(str(value))


def _global_model(
    grid: Grid,
    experiment: Experiment,
    strategy: Strategy,
    model: FlatModel,
    roster: Path | None,
    open_model: OpenModel | None,
    run_name: str,
) -> GlobalModel:
    weights, base = model.shared(model.vector()), model.unsent
    if experiment.encryption is None:
        return ClearModel(strategy, weights, experiment, base=base)
    if roster is None:
        raise ExperimentError(
            "[encryption] needs the roster of the silos' identity keys: set the run config's roster"
        )
    return SealedModel(
        grid,
        experiment,
        weights,
        run=run_name,
        sizes=model.shared_sizes,
        base=base,
        cipher=make_cipher(experiment.encryption.scheme, profile=experiment.encryption.profile),
        identities=load_roster(roster),
        two_models=strategy.has_momentum,
        open_model=open_model,
    )


def check(experiment: Experiment) -> Strategy:
    """The experiment's strategy; ExperimentError for a combination that voids a guarantee."""
    strategy = load_strategy(experiment.strategy.name, experiment.strategy.options)
    if experiment.privacy is not None and strategy.needs_loss:
        raise ExperimentError(
            f"strategy.name = '{strategy.name}' needs every silo's training loss, which no noise "
            "covers; it cannot be used with [privacy]"
        )
    if experiment.encryption is not None and not strategy.proposes:
        raise ExperimentError(
            f"strategy.name = '{strategy.name}' needs more than the mean of the updates, and with "
            "[encryption] nobody sees more; use fedavg, fedprox or fedavgm"
        )
    training = experiment.training
    if strategy.plain_sgd and (training.optimizer != "sgd" or training.momentum > 0):
        raise ExperimentError(
            f"strategy.name = '{strategy.name}' needs plain SGD in the silos: "
            'training.optimizer = "sgd" and training.momentum = 0'
        )
    return strategy


def initial_model(
    task: Task, experiment: Experiment, *, data_dir: Path | None = None, held: bool = False
) -> torch.nn.Module:
    """The task's model with weights that follow from the seed, or from the file of [start].

    The file is looked for in `data_dir`; where it is a server's (`held`), no path leads out of it.
    ExperimentError for a file that does not fit the model, or is another one than was agreed on,
    and for one with another base than the task's: silos would not have it.
    """
    model = seeded_model(task, experiment.seed)
    if experiment.start is not None:
        state = model.state_dict(keep_vars=True)
        base = Base.of(model, constant_buffers(task))
        begin_from(experiment.start, state, data_dir=data_dir, held=held, base=base.ids)
    return model


def first_model(
    task: Task, experiment: Experiment, *, data_dir: Path | None = None, held: bool = False
) -> FlatModel:
    """The same, flat."""
    model = initial_model(task, experiment, data_dir=data_dir, held=held)
    return _flat(model, task, experiment)


def _flat(model: torch.nn.Module, task: Task, experiment: Experiment) -> FlatModel:
    local = experiment.federation.local or ()
    return FlatModel(model, constant=constant_buffers(task), local=local)


# Under Flower itself, whose runs bring their own code: there is nothing to keep from them.
app = server_app(Hosting(simulated=True))
