"""What a deep audit says of a run: a claim for each observer, and the record to draw it from.

What it trains again is the silo that claims most, with the mechanisms that the ledger charges.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from privet.audits.claims import Claim, judged, unknown
from privet.audits.deep.attacks import (
    CERTAINTY,
    AttackResult,
    PrivacyProfile,
    attacks_on,
    best_of,
    curve_of,
)
from privet.audits.deep.record import FEWEST, Deep, DeepOptions, Observer
from privet.audits.deep.training import (
    Case,
    Observations,
    TrainingRound,
    assignments,
    train_many,
    worst_case,
)
from privet.audits.evidence import Evidence, JobLedger
from privet.client.silo import LocalData, load_local_data
from privet.client.training import loss_of
from privet.errors import DataError, PrivacyError, PrivetError
from privet.experiment import Experiment
from privet.privacy.accounting.events import Segment
from privet.privacy.mechanisms import DpSgd
from privet.privacy.mechanisms.batched import NotBatchable, OptimizerSettings
from privet.server.app import first_model
from privet.simulations.vectorised import chain_for
from privet.strategies import load_strategy
from privet.strategies.strategy import Strategy
from privet.tasks import Examples
from privet.tasks.files import data_folder


def largest_claim(run: Evidence) -> tuple[str, float]:
    """The silo that claims the largest epsilon, and its claim; DataError without one."""
    last = run.lines[-1].epsilon
    claims = {name: e for name, e in (last.per_silo if last else {}).items() if e is not None}
    if run.settings.privacy is None or not claims:
        raise DataError("the run claims no epsilon")
    silo = max(claims, key=claims.__getitem__)
    return silo, claims[silo]


def case_of(run: Evidence, silo: str) -> Case:
    """`silo`'s part in the run; a PrivetError says why there is no training it again."""
    if run.plans is None:
        raise DataError("the run is no simulation: its records are with the silos")
    experiment, ledger = run.settings, run.ledger(silo)
    if ledger is None:
        raise DataError(f"no sound ledger of {silo} is there to say what ran")
    data = load_local_data(experiment, data_dir=data_folder(None), run_id=0, divided=True)
    records = _records(data, silo, run.plans.get(silo, {}))
    rounds = tuple(_rounds(experiment, ledger, run, records))
    if not rounds:
        raise DataError(f"{silo} took part in no round")
    loss = loss_of(data.task, experiment.training)
    try:
        chain = chain_for(data, loss)
    except NotBatchable as reason:
        raise DataError(f"such models cannot be trained many at once: {reason}") from None
    flat = first_model(data.task, experiment, data_dir=data_folder(None))
    targets = torch.cat([each.targets for each in data.silos])
    clip = rounds[0].plan.clip
    training = experiment.training
    return Case(
        chain,
        loss,
        OptimizerSettings(training.optimizer, training.momentum, training.weight_decay),
        lambda: _server(experiment),
        flat.vector(),
        records,
        rounds,
        worst_case(records, targets, flat, loss, clip=clip),
    )


def _records(data: LocalData, silo: str, plan: Mapping[str, Any]) -> Examples:
    found = dict(zip(data.names, data.silos, strict=True)).get(silo)
    if found is None or plan.get("records") != len(found):
        raise DataError(f"the data are no longer those that {silo} was trained on")
    return found


def _rounds(
    experiment: Experiment, ledger: JobLedger, run: Evidence, records: Examples
) -> list[TrainingRound]:
    """The rounds that the ledger charges, each with its mechanism as charged."""
    assert experiment.privacy is not None
    found = []
    for line in run.lines:
        parts = [part for charge in ledger.of("training", line.round) for part in charge.parts]
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
            found.append(TrainingRound(line.round, plan, experiment.learning_rate(line.round)))
    return found


def _server(experiment: Experiment) -> Strategy:
    """The run's strategy, where it can do with one silo, else FedAvg."""
    strategy = load_strategy(experiment.strategy.name, experiment.strategy.options)
    try:
        strategy.check_silos(1)
    except PrivetError:
        return load_strategy("fedavg", {})
    return strategy


_OBSERVERS: dict[Observer, str] = {
    "updates": "the silo's updates, as the server gets them,",
    "model": "the last model alone",
}
_ENCRYPTED = "nobody got a silo's updates: they were encrypted"


def deep_audit(
    run: Evidence, options: DeepOptions, watch: Callable[[int], None]
) -> tuple[list[Claim], Deep | None]:
    """`mechanism.deep-updates` and `mechanism.deep-model` of a run; `watch` hears of models done.

    UNKNOWN, with the reason, where its training cannot be done again. Raises PrivacyError for
    fewer than FEWEST models.
    """
    if options.models < FEWEST:
        raise PrivacyError(f"{options.models} models are too few to attack: {FEWEST} or more")
    try:
        silo, claimed = largest_claim(run)
        case = case_of(run, silo)
        inserted = assignments(options.models, len(case.canaries), seed=options.seed)
        seen = train_many(case, inserted, seed=options.seed, watch=watch)
        return _claims_and_record(run, silo, claimed, case, seen, options)
    except Exception as error:  # the task is somebody's own code, and so are its data
        why = str(error) if isinstance(error, PrivetError) else f"{type(error).__name__}: {error}"
        statement = "No attack on models that were trained alike shows epsilon to be larger."
        ids = (f"mechanism.deep-{observer}" for observer in _OBSERVERS)
        return [unknown(id_, run.subject, statement, why) for id_ in ids], None


def _claims_and_record(
    run: Evidence, silo: str, claimed: float, case: Case, seen: Observations, options: DeepOptions
) -> tuple[list[Claim], Deep]:
    delta = run.delta
    assert delta is not None
    profile = PrivacyProfile.of(_segments(case))
    attacks = attacks_on(seen, [canary.name for canary in case.canaries])
    if encrypted := run.settings.encryption is not None:
        attacks = [attack for attack in attacks if attack.observer == "model"]
    claims, bounds = [], []
    for observer in _OBSERVERS:
        claim = _Statement(run.subject, observer, silo, claimed)
        if encrypted and observer == "updates":
            claims.append(claim.unknown(_ENCRYPTED))
            continue
        results = best_of([each for each in attacks if each.observer == observer], delta=delta)
        bounds += [result.recorded() for result in results]
        claims.append(_claim(claim, profile, results))
    record = Deep(
        subject=run.subject,
        silo=silo,
        claimed=claimed if math.isfinite(claimed) else None,
        delta=delta,
        models=options.models,
        seed=options.seed,
        bounds=tuple(bounds),
        curves=tuple(map(curve_of, attacks)),
        allowed=profile.curve(),
    )
    return claims, record


def _segments(case: Case) -> list[Segment]:
    plans = [round_.plan for round_ in case.rounds]
    return [Segment(each.noise_multiplier, each.sampling_rate, each.steps) for each in plans]


@dataclass(frozen=True)
class _Statement:
    """What a claim is about."""

    subject: str
    observer: Observer
    silo: str
    claimed: float

    @property
    def parts(self) -> tuple[str, str, str]:
        """The claim's id, its subject and its statement."""
        statement = (
            f"No attack on {_OBSERVERS[self.observer]} shows epsilon of {self.silo} to be above "
            f"{self.claimed:.4g}."
        )
        return f"mechanism.deep-{self.observer}", self.subject, statement

    def unknown(self, why: str) -> Claim:
        """That it cannot be decided, and why."""
        return unknown(*self.parts, why)


def _claim(
    claim: _Statement, profile: PrivacyProfile, results: tuple[AttackResult, AttackResult]
) -> Claim:
    assumption_free, gaussian = results
    text = _bound_text(assumption_free)
    if not math.isfinite(claim.claimed):
        return claim.unknown(f"no bound is claimed; {text}")
    faults, notes = ([text], []) if assumption_free.bound.refutes(claim.claimed) else ([], [text])
    if not profile.allows(gaussian.bound.errors):
        faults.append(
            "the mechanism that the ledger charges gives no attack such a chance, with "
            f"{CERTAINTY:.0%} confidence: {_errors(gaussian)}"
        )
    notes.append(f"{_bound_text(gaussian)}, if {gaussian.bound.assumes}")
    return judged(*claim.parts, faults=faults, notes=notes)


def _bound_text(result: AttackResult) -> str:
    bound = result.bound
    return (
        f"epsilon is at least {bound.epsilon:.2f} with {bound.confidence:.0%} confidence, at delta "
        f"{bound.delta:g}: {_errors(result)}"
    )


def _errors(result: AttackResult) -> str:
    errors, attack = result.bound.errors, result.attack
    return (
        f"by the {attack.score} of the {attack.canary} record it was seen in "
        f"{errors.in_ - errors.false_negatives} of {errors.in_} models with it and in "
        f"{errors.false_positives} of {errors.out} without"
    )
