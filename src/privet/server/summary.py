"""What a finished run amounts to, as its summary says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from privet.devices import Device
from privet.experiment import Experiment
from privet.metrics import Metric
from privet.record.card import ModelClaim, claim_of
from privet.record.history import Figures, RecordedMetric
from privet.record.summary import (
    ClaimedEpsilon,
    ComputedOn,
    CrossCheckFigures,
    DrawnCounts,
    EarlyEnd,
    ModelFacts,
    RunSummary,
    SpentSeconds,
    StartFacts,
    chosen_model,
    last_evaluation,
    problems_in,
    seconds_in,
)
from privet.server.accounts import Accounts
from privet.server.evaluation import Evaluator, Scores
from privet.server.rounds import RunOutcome
from privet.tasks import Task
from privet.tasks.figures import Confusion, ScoreCounts, TrueAgainst
from privet.vectors import FlatModel, Vector

ACCOUNTANT = "PLD (unsampled Gaussians: exact), add-or-remove-one-record adjacency"


def facts_of(model: FlatModel) -> ModelFacts:
    """What of the model trains, travels and stays, before the run."""
    return ModelFacts(
        trained=sum(parameter.numel() for parameter in model.parameters),
        sent=sum(model.shared_sizes),
        base=len(model.base),
        base_digest=model.base.digest,
        local=list(model.local) or None,
        still=None,
        nothing_trained=None,
    )


def with_still(
    facts: ModelFacts, first: Mapping[str, bytes], last: FlatModel, outcome: RunOutcome
) -> ModelFacts:
    """The same after the run: which parameters of `last` have the marks that they had at first.

    Nothing where validation chose the first model of all, whatever the others were.
    """
    if outcome.best and outcome.best.entry and not outcome.best.entry.round:
        return facts
    still = [name for name, mark in last.marks().items() if first[name] == mark]
    updated = any(entry.participants for entry in outcome.rounds)
    if len(still) < len(first) or not updated:  # that nobody trained is another matter
        return facts.model_copy(update={"still": still})
    said = (
        "nothing was trained: every number of the model is where it started; its parameters get "
        "no gradient, or none that moves them"
    )
    return facts.model_copy(update={"still": still, "nothing_trained": said})


@dataclass(frozen=True)
class TestedBeside:
    """What test records say beside the figures of the result."""

    baselines: Figures = field(default_factory=dict)
    pictures: DrawnCounts | None = None

    @classmethod
    def of(cls, evaluator: Evaluator, weights: Vector | None) -> TestedBeside:
        """Of the model that the run leaves; None: there are several."""
        found = [] if weights is None else evaluator.pictures(weights)
        confusion = next((each for each in found if isinstance(each, Confusion)), None)
        against = next((each for each in found if isinstance(each, TrueAgainst)), None)
        scores = [asdict(each) for each in found if isinstance(each, ScoreCounts)]
        drawn = DrawnCounts.strictly(
            {
                "scores": scores,
                "confusion": asdict(confusion) if confusion else None,
                "against": asdict(against) if against else None,
            }
        )
        return cls(evaluator.baselines(), drawn if found else None)


def summarise(
    experiment: Experiment,
    outcome: RunOutcome,
    model: ModelFacts,
    tested: Scores | None,
    *,
    declared: tuple[Metric, ...],
    beside: TestedBeside,
    seconds: float,
    device: Device | None,
) -> RunSummary:
    """`seconds` is the wall time of this process's part of the run; `tested` is what a model that
    was chosen by validation is like on test records. `device`: where all of a simulation ran."""
    last, best = outcome.rounds[-1], outcome.best
    measured = tested if best else last
    updates = sum(len(entry.participants) for entry in outcome.rounds)
    total = seconds_in("total", outcome.rounds)
    start = experiment.start
    return RunSummary(
        task=experiment.task,
        rounds=experiment.rounds,
        seed=experiment.seed,
        start=StartFacts(sha256=start.sha256, seen=start.seen) if start else None,
        validation=chosen_model(best.entry, records=best.records) if best and best.entry else None,
        accuracy=measured.accuracy if measured else None,
        loss=measured.loss if measured else None,
        metrics=measured.metrics if measured else {},
        evaluation=last_evaluation(outcome.rounds),
        stopped=EarlyEnd(round=last.round, reason=outcome.stopped) if outcome.stopped else None,
        epsilon=_epsilon(outcome.accounts, outcome.silos),
        encryption=outcome.encryption,
        model=model,
        computed=ComputedOn(device=device.name, precision=device.precision) if device else None,
        seconds=SpentSeconds(
            total=seconds,
            training=seconds_in("training", outcome.rounds) or 0.0,
            aggregation=seconds_in("aggregation", outcome.rounds) or 0.0,
            encryption=seconds_in("encryption", outcome.rounds),
        ),
        client_updates=updates,
        client_updates_per_second=updates / total if total else None,
        problems=[*problems_in(outcome.rounds), *(tested.problems if tested else ())],
        declared=[RecordedMetric.of(each) for each in declared],
        baselines=beside.baselines,
        pictures=beside.pictures,
    )


def claimed(
    task: Task, experiment: Experiment, outcome: RunOutcome, *, simulated: bool
) -> ModelClaim:
    """What the model's file says of the run's guarantee."""
    claim, accounts = claim_of(task, experiment, simulated=simulated), outcome.accounts
    if accounts is None:
        return claim
    spent = accounts.spent(outcome.silos)
    told = {
        "epsilon": spent.max,
        "accountant": ACCOUNTANT,
        "charges": accounts.digest(outcome.silos),
    }
    return claim.model_copy(update=told)


def _epsilon(accounts: Accounts | None, silos: tuple[str, ...]) -> ClaimedEpsilon | None:
    if accounts is None:
        return None
    spent = accounts.spent(silos)
    return ClaimedEpsilon(
        unit="record",
        max=spent.max,
        per_silo=spent.per_silo,
        delta=accounts.delta,
        accountant=ACCOUNTANT,
        cross_checks=_cross_checks(accounts),
    )


def _cross_checks(accounts: Accounts) -> CrossCheckFigures | None:
    checks = accounts.cross_checks()
    if checks is None:
        return None
    return CrossCheckFigures(
        pld=checks.pld,
        rdp=checks.rdp,
        prv=checks.prv,
        agree=checks.agree,
        problems=list(checks.problems),
        notes=list(checks.notes),
    )
