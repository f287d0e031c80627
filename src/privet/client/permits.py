"""What a job asks of a silo, what the policy decides of it, and the permit that follows.

Pure: no file is read and no record. The guard puts its requests together here, checks what would
reveal how many records a silo has (for data holders who keep that to themselves), and raises the
noise to what the limits still allow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from privet.client.silo import Silo
from privet.client.task_code import code_hash
from privet.client.training import LocalPlan
from privet.errors import PrivetError
from privet.experiment import Experiment
from privet.privacy.dp_events import DpEvent
from privet.privacy.ledger import (
    Forecast,
    History,
    Limit,
    Projection,
    fitting_noise,
    forecast,
)
from privet.privacy.ledger.costs import event_text, parts_of
from privet.privacy.policy import Decision, MetricRule, Policy, Refusal, Request
from privet.strategies import load_strategy
from privet.tasks import Examples


@dataclass(frozen=True, kw_only=True)
class RequestOrigin:
    """Who asks for which data set, and for which job; named by the silo's own configuration."""

    dataset: str
    requester: str
    job: str
    order: str | None = None
    """SHA-256 of the order that the job is, where an administrator signed one."""
    until: datetime | None = None
    """When that order ends."""

    def opening(self, experiment: Experiment) -> Request:
        """Before the task's code is loaded: may it run here at all, and now?"""
        return Request(
            dataset=self.dataset,
            task=experiment.task,
            code_hash=code_hash(experiment.task),
            requester=self.requester,
            job=self.job,
            kind="open",
            at=datetime.now(UTC),
            encrypted=experiment.encryption is not None,
            silos_in_sum=experiment.encryption.smallest_sum if experiment.encryption else None,
            until=self.until,
        )

    def training(self, experiment: Experiment, plan: LocalPlan) -> Request:
        """A round of `plan`."""
        request = replace(self.opening(experiment), kind="train")
        if plan.mechanism is None or experiment.privacy is None:
            return request
        return replace(
            request,
            unit=experiment.privacy.unit,
            mechanism="dp-sgd",
            noise_multiplier=plan.mechanism.noise_multiplier,
            sampling_rate=plan.mechanism.sampling_rate,
            clip=plan.mechanism.clip,
            uncovered_preprocessing=experiment.privacy.uncovered_preprocessing,
        )

    def evaluation(self, experiment: Experiment, metrics: tuple[str, ...]) -> Request:
        """An evaluation that would like to send `metrics`."""
        return replace(self.opening(experiment), kind="evaluate", metrics=metrics)


_RULE = "sending.records_public"


def reveals_record_count(experiment: Experiment) -> Iterator[Refusal]:
    """Settings under which the update itself, or what must come with it, reveals the number.

    An update's noise is as large as its steps and its noise multiplier make it, so both must come
    from the job and not from the number of records; and the average must not weigh silos by it.
    What a sum is divided by, `without_size` sees to.
    """
    privacy, training = experiment.privacy, experiment.training
    if load_strategy(experiment.strategy.name, experiment.strategy.options).counts_records:
        yield Refusal(_RULE, "weights by number of records", 'strategy.weighting = "uniform"')
    if training.steps is None:
        yield Refusal(_RULE, "steps that follow from the number of records", "training.steps")
    if privacy is not None and privacy.noise_multiplier is None:
        yield Refusal(
            _RULE, "noise fitted to the number of records", "privacy.noise_multiplier, not epsilon"
        )
    if privacy is not None and privacy.calibrate == "shared":
        # The server could try which noise still fits the budget, which hangs on the number.
        yield Refusal(_RULE, "noise that the server raises", 'privacy.calibrate = "per-silo"')


class RefusedByPolicy(PrivetError):  # noqa: N818 - it is the answer, not a fault
    """The data holder's rules do not allow what was asked.

    `code` and `names`, those of rules and settings, are what a requester is told of it. The text
    is for the data holder: figures in it can follow from the number of records.
    """

    def __init__(self, text: str, *, code: str = "policy", names: Sequence[str] = ()) -> None:
        super().__init__(text)
        self.code = code
        self.names = tuple(dict.fromkeys(names))


class TrainingPermit(Protocol):
    """Permission to use the records once."""

    @property
    def plan(self) -> LocalPlan:
        """What may run: the plan that was asked for, or the same with more noise."""

    @property
    def records_public(self) -> bool:
        """Whether anything that reveals the number of records may be sent."""

    def records(self) -> Examples:
        """The records; from here on the reservation stands whatever happens."""

    def commit(self, event: DpEvent) -> None:
        """Charge what really ran instead of the worst case, before anything is sent."""


class EvaluationPermit(Protocol):
    """Permission to measure the model once: what may be sent of it, and how."""

    @property
    def rules(self) -> tuple[MetricRule, ...]:
        """For each metric that was asked for."""

    @property
    def event(self) -> DpEvent | None:
        """The noise of all metrics that are released with noise; None when none is."""

    @property
    def records_public(self) -> bool:
        """Whether anything that reveals the number of records may be sent."""

    def records(self) -> Examples:
        """The records to measure on; from here on what is noised stays charged."""


@dataclass(frozen=True)
class Prospects:
    """How many of a job's rounds fit the budget; None where there is no ledger."""

    rounds: int | None
    records_public: bool
    """Whether that may be said, and what else reveals the number of records."""


class Guard(Protocol):
    """What stands before a silo's records."""

    def enter(self, experiment: Experiment) -> None:
        """Raise RefusedByPolicy before the task's code, which reads the records, is loaded."""

    def count_failure(self, text: str) -> None:
        """Count an answer that says that something failed once the records were opened."""

    def check(self, experiment: Experiment, silo: Silo, plan: LocalPlan) -> Prospects:
        """What may be said of the job's chances before it begins.

        Raise RefusedByPolicy when not even the first round is allowed. Charges nothing.
        """

    def admit(
        self, experiment: Experiment, silo: Silo, plan: LocalPlan, *, round_: int
    ) -> AbstractContextManager[TrainingPermit]:
        """A context in which the records may be used once, already charged in the ledger."""

    def measure(
        self, experiment: Experiment, silo: Silo, metrics: tuple[str, ...], *, round_: int
    ) -> AbstractContextManager[EvaluationPermit]:
        """A context in which `metrics` may be computed once, already charged in the ledger."""


@dataclass(frozen=True)
class FreeTrainingPermit:
    """Records that are charged to nobody."""

    plan: LocalPlan
    examples: Examples
    records_public: bool = True

    def records(self) -> Examples:
        """The records."""
        return self.examples

    def commit(self, event: DpEvent) -> None:
        """Nothing is charged."""


@dataclass(frozen=True)
class FreeEvaluationPermit:
    """Everything may be sent as it is."""

    rules: tuple[MetricRule, ...]
    examples: Examples
    event: None = None
    records_public: bool = True

    def records(self) -> Examples:
        """The records."""
        return self.examples


class Unguarded:
    """The guard of shares of one place's records: whoever partitions them has them all anyway."""

    def enter(self, experiment: Experiment) -> None:
        """Nothing is refused."""

    def check(self, experiment: Experiment, silo: Silo, plan: LocalPlan) -> Prospects:  # noqa: ARG002
        """Nothing is refused."""
        return Prospects(None, records_public=True)

    def count_failure(self, text: str) -> None:
        """Nothing is counted."""

    @contextmanager
    def admit(
        self,
        experiment: Experiment,  # noqa: ARG002
        silo: Silo,
        plan: LocalPlan,
        *,
        round_: int,  # noqa: ARG002
    ) -> Iterator[TrainingPermit]:
        """The records, charged to nobody."""
        yield FreeTrainingPermit(plan, silo.examples)

    @contextmanager
    def measure(
        self,
        experiment: Experiment,  # noqa: ARG002
        silo: Silo,
        metrics: tuple[str, ...],
        *,
        round_: int,  # noqa: ARG002
    ) -> Iterator[EvaluationPermit]:
        """Every metric, exactly."""
        yield FreeEvaluationPermit(
            tuple(MetricRule(name, "exact") for name in metrics), silo.held_out()
        )


Project = Callable[[DpEvent], tuple[Projection, ...]]


def judge(policy: Policy, request: Request) -> Decision:
    """The policy's decision; RefusedByPolicy when it does not allow the request."""
    decision = policy.decide(request)
    if not decision.allowed:
        rules = [refusal.limit for refusal in decision.refusals]
        raise RefusedByPolicy(decision.reason, names=rules)
    return decision


def judge_training(
    policy: Policy, origin: RequestOrigin, experiment: Experiment, plan: LocalPlan
) -> Decision:
    """The decision on a round of `plan`; RefusedByPolicy also if it would reveal a secret size."""
    decision = judge(policy, origin.training(experiment, plan))
    revealing = () if decision.records_public else tuple(reveals_record_count(experiment))
    if revealing:
        raise RefusedByPolicy("; ".join(map(str, revealing)), names=[_RULE])
    return decision


def limits_of(decision: Decision) -> list[Limit]:
    """The decision's limits as the ledger keeps them."""
    return [Limit(limit.epsilon, limit.delta, limit.scope) for limit in decision.limits]


def fitted(
    plan: LocalPlan,
    experiment: Experiment,
    decision: Decision,
    *,
    project: Project,
    rounds: int,
    noise_so_far: Callable[[], float] = float,
) -> LocalPlan:
    """The plan with the noise that makes `rounds` rounds fit, where the job asks for that.

    Not where the number of records is kept: what is left of the budget and the noise that fits it
    reveal the sampling rate. Noise never falls below what the job has trained with before.
    """
    mechanism, privacy = plan.mechanism, experiment.privacy
    if mechanism is None or privacy is None or privacy.on_budget == "stop":
        return plan
    if not (decision.records_public and decision.limits):
        return plan
    noise = fitting_noise(
        project,
        lambda noise: replace(mechanism, noise_multiplier=noise).event(),
        rounds=rounds,
        floor=max(mechanism.noise_multiplier, noise_so_far()),
    )
    # No noise is enough: the plan stays, so that charging it is refused, and with figures.
    if noise is None:
        return plan
    return replace(plan, mechanism=replace(mechanism, noise_multiplier=noise))


def without_size(plan: LocalPlan, experiment: Experiment, decision: Decision) -> LocalPlan:
    """The plan whose divisor is the job's, where the number of records is kept.

    A silo with fewer records than a batch takes all of them into every step; dividing their sum by
    their number would show it in the noise.
    """
    if decision.records_public or plan.mechanism is None:
        return plan
    size = experiment.training.batch_size
    return replace(plan, batch_size=size, mechanism=replace(plan.mechanism, batch_size=float(size)))


_BUDGETS = {
    "dataset": "budget.epsilon",
    "job": "budget.epsilon_per_job",
    "month": "budget.epsilon_per_month",
    "requester": "budget.epsilon_per_requester",
}


def exceeded(
    coming: Sequence[Projection], whole: Sequence[Projection], rounds: int, decision: Decision
) -> RefusedByPolicy:
    """Which limit, what was spent, and what would be; figures only if the size is no secret."""
    broken, after = next(
        (now, later) for now, later in zip(coming, whole, strict=True) if not now.fits
    )
    if decision.records_public:
        text = (
            f"the limit is {broken.limit}; spent so far is {broken.spent:.4g}, "
            f"and this round would make it {broken.projected:.4g}"
        )
        text += f" (all {rounds} that remain: {after.projected:.4g})" if rounds > 1 else ""
    else:
        text = f"the limit is {broken.limit}; this round would exceed it"
    return RefusedByPolicy(text, code="budget", names=[_BUDGETS[broken.limit.scope]])


@dataclass(frozen=True)
class Prospect:
    """What a whole job would meet at a silo: the plan that would run, and what limits would say."""

    plan: LocalPlan
    decision: Decision
    outlook: Forecast


def what_if(
    experiment: Experiment,
    plan: LocalPlan,
    *,
    policy: Policy,
    history: History,
    origin: RequestOrigin,
    month: str,
) -> Prospect:
    """The prospect of a job that has not begun, in `month` (as 2025-01); charges nothing.

    Raises RefusedByPolicy when the policy does not allow a round of it, whatever was spent.
    """
    decision = judge_training(policy, origin, experiment, plan)
    limits = limits_of(decision)

    def project(event: DpEvent) -> tuple[Projection, ...]:
        found = history.project(
            limits,
            dataset=origin.dataset,
            job=origin.job,
            who=origin.requester,
            month=month,
            parts=parts_of(event_text(event)),
        )
        return tuple(found)

    rounds = experiment.rounds
    plan = fitted(plan, experiment, decision, project=project, rounds=rounds)
    return Prospect(plan, decision, forecast(project, plan.event(), rounds=rounds))
