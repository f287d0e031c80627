"""What of a run a deep audit can train again: the silo that claims most, as it was charged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from privet.audits.deep.training import Case, TrainingRound, worst_case
from privet.audits.evidence import Evidence, LedgerCharge
from privet.client.silo import LocalData, load_local_data
from privet.errors import DataError, PrivetError
from privet.experiment import Experiment
from privet.privacy.mechanisms import DpSgd
from privet.privacy.mechanisms.batched import NotBatchable, OptimizerSettings
from privet.server.app import initial_model
from privet.server.rounds import learning_rate
from privet.simulations.vectorised import chain_for
from privet.strategies import load_strategy
from privet.strategies.strategy import Strategy
from privet.tasks import Examples
from privet.tasks.files import data_folder
from privet.vectors import FlatModel


def dearest(run: Evidence) -> tuple[str, float]:
    """The silo that claims the largest epsilon, and its claim; DataError without one."""
    told = run.lines[-1].epsilon
    claims = {name: e for name, e in (told.per_silo if told else {}).items() if e is not None}
    if run.settings.privacy is None or not claims:
        raise DataError("the run claims no epsilon")
    silo = max(claims, key=claims.__getitem__)
    return silo, claims[silo]


def case_of(run: Evidence, silo: str) -> Case:
    """`silo`'s part in the run; a PrivetError says why there is no training it again."""
    if run.plans is None:
        raise DataError("the run is no simulation: its records are with the silos")
    experiment, bill = run.settings, run.bill(silo)
    if bill is None:
        raise DataError(f"no sound ledger of {silo} is there to say what ran")
    place = load_local_data(experiment, data_dir=data_folder(None), run_id=0, divided=True)
    records = _records(place, silo, run.plans.get(silo, {}))
    rounds = tuple(_rounds(experiment, bill, run, records))
    if not rounds:
        raise DataError(f"{silo} took part in no round")
    try:
        chain = chain_for(place)
    except NotBatchable as reason:
        raise DataError(f"such models cannot be trained many at once: {reason}") from None
    flat = FlatModel(initial_model(place.task, experiment))
    targets = torch.cat([each.targets for each in place.silos])
    clip = rounds[0].plan.clip
    training = experiment.training
    return Case(
        chain,
        place.task.loss,
        OptimizerSettings(training.optimizer, training.momentum, training.weight_decay),
        lambda: _server(experiment),
        flat.vector(),
        records,
        rounds,
        worst_case(records, targets, flat, place.task.loss, clip=clip),
    )


def _records(place: LocalData, silo: str, plan: Mapping[str, Any]) -> Examples:
    found = dict(zip(place.names, place.silos, strict=True)).get(silo)
    if found is None or plan.get("records") != len(found):
        raise DataError(f"the data are no longer those that {silo} was trained on")
    return found


def _rounds(
    experiment: Experiment, bill: LedgerCharge, run: Evidence, records: Examples
) -> list[TrainingRound]:
    """The rounds that the ledger charges, each with its mechanism as charged."""
    assert experiment.privacy is not None
    found = []
    for line in run.lines:
        parts = [part for charge in bill.of("training", line.round) for part in charge.parts]
        for part in parts[-1:]:  # of a round that was run again, the last
            plan = DpSgd(
                noise_multiplier=part.noise_multiplier,
                clip=experiment.privacy.clip,
                sampling_rate=part.sampling_rate,
                steps=part.steps,
                batch_size=part.sampling_rate * len(records),
            )
            if not (math.isfinite(plan.noise_multiplier) and plan.noise_multiplier > 0):
                raise DataError(f"round {line.round} was charged without noise")
            found.append(TrainingRound(line.round, plan, learning_rate(experiment, line.round)))
    return found


def _server(experiment: Experiment) -> Strategy:
    """The run's strategy, where it can do with one silo, else FedAvg."""
    strategy = load_strategy(experiment.strategy.name, experiment.strategy.options)
    try:
        strategy.check_silos(1)
    except PrivetError:
        return load_strategy("fedavg", {})
    return strategy
