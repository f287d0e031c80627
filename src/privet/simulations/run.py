"""One simulated run, from settings to a finished run folder.

What a simulation knows of its silos, for the report: `silos.json`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, RecordDict

from privet.client.keyring import SIMULATED_RUN
from privet.client.silo import LocalData
from privet.client.training import LocalPlan
from privet.devices import Device, DeviceError, Precision, chosen, demand_workers
from privet.experiment import Experiment
from privet.files import write_whole
from privet.privacy.mechanisms.batched import NotBatchable
from privet.privacy.mechanisms.canaries import CANARIES
from privet.randomness import one_thread
from privet.record.folder import RunFolder
from privet.record.history import Watch, look_away
from privet.record.summary import RunSummary
from privet.server.app import Hosting, server_app
from privet.simulations import Engine
from privet.simulations.apps import (
    KEYS,
    SimulatedKeys,
    SimulatedSilos,
    simulated_client_app,
    simulated_training,
)
from privet.simulations.decided import Decided
from privet.simulations.grid import (
    SERVER_NODE,
    Executor,
    InProcessGrid,
    Sequential,
    contexts,
)
from privet.simulations.ledger import complete_summary, sign_files, simulated_ledger
from privet.simulations.pool import WorkerPool
from privet.simulations.prepare import Prepared, prepare
from privet.simulations.vectorised import (
    SILOS_AT_ONCE_ON_DEVICE,
    Vectorised,
    chain_for,
    pays,
)
from privet.tasks import Examples
from privet.tasks.task import uncovered

SILOS = "silos.json"

_MOST_LABELS = 100


def describe_silos(place: LocalData, plans: Sequence[LocalPlan]) -> dict[str, Any]:
    """Sizes, labels and plans of the silos. Labels are left out when there are too many."""
    held_out = place.held_out or (None,) * len(place.silos)
    of_silos = [
        _labels(silo if out is None else Examples.joined([silo, out]))
        for silo, out in zip(place.silos, held_out, strict=True)
    ]
    targets = np.concatenate(of_silos)
    labels = None if targets.dtype.kind == "f" else np.unique(targets).tolist()
    if labels is not None and len(labels) > _MOST_LABELS:
        labels = None
    test = place.task.test_data()
    return {
        "silos": [
            {
                "name": name,
                "records": len(own),
                "labels": None if labels is None else _count(own, labels),
                **_describe_plan(plan),
            }
            for name, own, plan in zip(place.names, of_silos, plans, strict=True)
        ],
        "labels": None if labels is None else [str(label) for label in labels],
        "test_records": None if test is None else len(test),
        "notes": list(uncovered(place.task)),
    }


def _labels(examples: Examples) -> np.ndarray:
    """The targets, or NaN of each where it is not one number."""
    found = examples.labels
    return np.full(len(examples), np.nan) if found is None else found


def _count(targets: np.ndarray, labels: Sequence[int]) -> dict[str, int]:
    return {str(label): int((targets == label).sum()) for label in labels}


def _describe_plan(plan: LocalPlan) -> dict[str, Any]:
    mechanism = plan.mechanism
    return {
        "sampling_rate": mechanism.sampling_rate if mechanism else None,
        "steps_per_round": plan.steps,
        "noise_multiplier": mechanism.noise_multiplier if mechanism else None,
    }


POLICY = "policy.toml"


@dataclass(frozen=True)
class Execution:
    """How a simulation is computed: of the result, engine, device and precision change the rounding
    alone."""

    workers: int = 1
    """Processes that silos share."""
    engine: Engine = "auto"
    """What trains the silos; "auto": many at once ("vectorised") where that is quicker, else one by
    one ("in-process")."""
    isolate: bool = False
    """Serialise every message exactly as Flower's wire does."""
    canaries: int = 0
    """With DP-SGD, coordinates beside every silo's model on which the mechanism is audited: what is
    seen of them stands in the run folder. They change the random numbers, not their law."""
    device: str = "cpu"
    """Where silos train and models are measured: "auto", "cpu", "cuda", "cuda:1", "mps". Of
    several of one kind that is named without a number every worker owns one."""
    precision: Precision = "float32"
    """Of forward and backward passes."""

    def chosen_device(self) -> Device:
        """The device, for as many processes; DeviceError where that cannot be."""
        device = chosen(self.device, self.precision)
        if self.engine != "ray":
            demand_workers(device, self.workers)
        elif ":" in device.name:
            raise DeviceError(
                f"device = {device.name!r}: Ray gives out devices; write {device.kind!r}"
            )
        return device


def simulate(
    experiment: Experiment,
    *,
    out: Path,
    data_dir: Path | None = None,
    policy: Path | None = None,
    execution: Execution | None = None,
    resume: bool = False,
    watch: Watch = look_away,
) -> dict[str, Any]:
    """The run alone: what `privet.simulate` does but for the report and the tracker."""
    return run_prepared(
        prepare(experiment, data_dir=data_dir, policy=policy),
        out=out,
        execution=execution or Execution(),
        resume=resume,
        watch=watch,
    ).plain()


def run_prepared(
    prepared: Prepared, *, out: Path, execution: Execution, resume: bool, watch: Watch
) -> RunSummary:
    """Run what `prepare` has accepted."""
    device = execution.chosen_device()
    device.enter()
    prepared.place.try_out(device)
    folder = RunFolder(out)
    folder.check_free(resume=resume)
    experiment = prepared.experiment
    decided = Decided.of(
        prepared.place,
        canaries=execution.canaries,
        policy=prepared.policy,
        first_rounds=experiment.rounds,
    )
    # The server compares settings too, but by then something in the folder has changed.
    if folder.holds_a_run():
        folder.check_settings(experiment)
        decided = decided.going_on(out, private=experiment.privacy is not None)
    about = describe_silos(prepared.place, prepared.plans)
    folder.save_json(SILOS, {**about, **decided.plain()})
    hosting = Hosting(
        folder=out,
        data_dir=prepared.data_dir,
        simulated=True,
        resume=resume,
        watch=watch,
        validation=prepared.place.validation,
        device=device,
        note=prepared.by_rule,
    )
    keys = _keys(prepared, out)
    if keys is not None:
        hosting = replace(hosting, roster=keys.roster, open_model=keys.opener(), run=SIMULATED_RUN)
    with one_thread(), simulated_ledger(out) as files:
        simulated = SimulatedSilos(
            names=prepared.place.names,
            ledger=files.ledger,
            key=files.key,
            policy=_own_copy(prepared.policy, out),
            requester=prepared.requester,
            keys=keys,
            data_dir=prepared.data_dir,
            canaries=execution.canaries,
            canaries_dir=out.absolute() / CANARIES,
            device=device,
            streams=decided.streams(experiment),
        )
        if execution.engine == "ray":
            from privet.simulations.ray import run_on_ray

            run_on_ray(prepared, hosting, simulated, workers=execution.workers)
        else:
            _run_in_process(prepared, hosting, simulated, execution)
        summary = complete_summary(folder)
        sign_files(out, files)
    return summary


def _keys(prepared: Prepared, out: Path) -> SimulatedKeys | None:
    if prepared.experiment.encryption is None:
        return None
    keys = SimulatedKeys(out.absolute() / KEYS, prepared.place.names)
    keys.make()
    return keys


def _own_copy(policy: Path | None, out: Path) -> Path | None:
    """The policy as the run keeps it, so that the folder says what was in force."""
    if policy is None:
        return None
    copy = out.absolute() / POLICY
    write_whole(copy, policy.read_bytes())
    return copy


def engine_warnings(prepared: Prepared, engine: Engine) -> list[str]:
    """What of the engine that was asked for cannot be had."""
    if engine != "vectorised":
        return []
    try:
        chain_for(prepared.place, prepared.loss)
    except NotBatchable as reason:
        return [f"the model does not suit the vectorised engine, silos train one by one: {reason}"]
    return []


def _together(prepared: Prepared, simulated: SimulatedSilos, engine: Engine) -> Vectorised | None:
    """What trains silos together; None where they train one by one."""
    if engine == "in-process" or (engine == "auto" and not pays(prepared)):
        return None
    try:
        chain = chain_for(prepared.place, prepared.loss)
    except NotBatchable:
        return None
    begin = partial(simulated_training, experiment=prepared.experiment, simulated=simulated)
    if simulated.device.on_cpu:
        return Vectorised(begin, chain)
    return Vectorised(begin, chain, SILOS_AT_ONCE_ON_DEVICE)


def _run_in_process(
    prepared: Prepared, hosting: Hosting, simulated: SimulatedSilos, execution: Execution
) -> None:
    experiment, run_id = prepared.experiment, prepared.run_id
    silos = contexts(
        len(prepared.place.silos),
        run_id=run_id,
        run_config=experiment.to_run_config(),
        node_config={},
    )
    make_app = partial(simulated_client_app, experiment, simulated)
    together = _together(prepared, simulated, execution.engine)
    executor: Executor = (
        Sequential(make_app(), silos, together)
        if execution.workers == 1
        else WorkerPool(
            make_app,
            silos,
            workers=execution.workers,
            time_limit=experiment.round_timeout,
            together=together,
            device=simulated.device,
        )
    )
    with closing(
        InProcessGrid(
            executor,
            silos=len(silos),
            run_id=run_id,
            isolate=execution.isolate,
            names=prepared.place.names,
        )
    ) as grid:
        server = server_app(replace(hosting, memory=grid))
        context = Context(run_id, SERVER_NODE, {}, RecordDict(), {**experiment.to_run_config()})
        server(grid=grid, context=context)
