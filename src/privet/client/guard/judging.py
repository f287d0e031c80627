"""A round put before the policy, and the noise that fits its limits: no file, no record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from privet.client.guard.asking import Asking
from privet.client.guard.door import Refused
from privet.client.guard.size import telling
from privet.client.plan import LocalPlan
from privet.experiment import Experiment
from privet.privacy.dp_events import DpEvent
from privet.privacy.ledger import Forecast, History, Limit, Projection, fitting_noise, forecast
from privet.privacy.ledger.costs import event_text, parts_of
from privet.privacy.policy import Decision, Policy, Request

Project = Callable[[DpEvent], tuple[Projection, ...]]


def judge(policy: Policy, request: Request) -> Decision:
    """The policy's decision; Refused when it does not allow the request."""
    decision = policy.decide(request)
    if not decision.allowed:
        raise Refused(decision.reason)
    return decision


def judge_training(
    policy: Policy, asking: Asking, experiment: Experiment, plan: LocalPlan
) -> Decision:
    """The decision on a round of `plan`; Refused also when it would tell a size that is kept."""
    decision = judge(policy, asking.training(experiment, plan))
    told = () if decision.records_public else tuple(telling(experiment, plan))
    if told:
        raise Refused("; ".join(map(str, told)))
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
    tell the sampling rate. Noise never falls below what the job has trained with before.
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
    if noise is None:
        return plan
    return replace(plan, mechanism=replace(mechanism, noise_multiplier=noise))


def exceeded(
    coming: Sequence[Projection], whole: Sequence[Projection], rounds: int, decision: Decision
) -> str:
    """Which limit, what was spent, and what would be; figures only if the size is no secret."""
    broken, after = next(
        (now, later) for now, later in zip(coming, whole, strict=True) if not now.fits
    )
    if not decision.records_public:
        return f"the limit is {broken.limit}; this round would exceed it"
    text = (
        f"the limit is {broken.limit}; spent so far is {broken.spent:.4g}, "
        f"and this round would make it {broken.projected:.4g}"
    )
    return text if rounds == 1 else f"{text} (all {rounds} that remain: {after.projected:.4g})"


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
    asking: Asking,
    month: str,
) -> Prospect:
    """The prospect of a job that has not begun, in `month` (as 2025-01); charges nothing.

    Raises Refused when the policy does not allow a round of it, whatever was spent.
    """
    decision = judge_training(policy, asking, experiment, plan)
    limits = limits_of(decision)

    def project(event: DpEvent) -> tuple[Projection, ...]:
        found = history.project(
            limits,
            dataset=asking.dataset,
            job=asking.job,
            who=asking.requester,
            month=month,
            parts=parts_of(event_text(event)),
        )
        return tuple(found)

    rounds = experiment.rounds
    plan = fitted(plan, experiment, decision, project=project, rounds=rounds)
    return Prospect(plan, decision, forecast(project, plan.event(), rounds=rounds))
