"""Did what ran keep to the policy, and to the run's own settings?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from privet.privacy.accounting.segments import Segment
from privet.privacy.audit.accounts import Account
from privet.privacy.audit.claims import Claim, judged, unknown
from privet.privacy.audit.replay import against_policy, beyond_policy
from privet.privacy.ledger import Entry
from privet.privacy.policy import Policy, Request
from privet.privacy.policy.rules import Rules
from privet.simulations.audit.evidence import Bill, Evidence
from privet.simulations.audit.record import Findings, by_ledgers

_BUDGET = "The budgets of the policy held at every moment, between entries too."
_POLICY = "Every use of the records was one that the policy allows."
_UNTOLD = frozenset({"code"})
"""A task's code is not in a run folder."""
_UNTOLD_BY_LEDGERS = frozenset({"code", "tasks", "sending.smallest_sum"})

_WAYS = ("withheld", "noised", "exact")
"""From the strictest on."""


def claims(run: Evidence) -> Iterator[Claim]:
    """That a run kept to its policy and to its settings."""
    policy = run.policy
    if policy is None:
        why = "the run has no policy.toml, and none was given"
        yield unknown("budget.every-moment", run.subject, _BUDGET, why)
        yield unknown("policy.respected", run.subject, _POLICY, why)
    else:
        yield by_ledgers(
            run,
            "budget.every-moment",
            _BUDGET,
            lambda _, silo, bill: _faults(beyond_policy(_of_dataset(bill), policy), silo),
        )
        yield by_ledgers(
            run,
            "policy.respected",
            _POLICY,
            lambda run, silo, bill: _respected(run, silo, bill, policy),
        )
    if run.plans is not None and run.settings.privacy is not None:
        yield by_ledgers(
            run,
            "mechanism.settings",
            "Sampling rate, steps and noise of every entry follow from settings and records.",
            _as_planned,
        )


def claims_of_account(account: Account, policy: Policy) -> Iterator[Claim]:
    """That what is in a ledger keeps to a policy, whatever the runs were."""
    over = beyond_policy(account.entries, policy)
    yield judged("budget.every-moment", account.subject, _BUDGET, faults=over)
    like = Request(
        dataset="", task="unknown", requester="", job="", kind="train", at=datetime.now(UTC)
    )
    against = against_policy(account.entries, policy, like=like, untold=_UNTOLD_BY_LEDGERS)
    yield judged("policy.respected", account.subject, _POLICY, faults=against)


def _of_dataset(bill: Bill) -> list[Entry]:
    return [entry for entry in bill.account.entries if entry.dataset == bill.dataset]


def _faults(texts: Iterator[str], silo: str) -> Findings:
    return ((True, f"{silo}: {text}") for text in texts)


def _respected(run: Evidence, silo: str, bill: Bill, policy: Policy) -> Findings:
    own = [entry for entry in _of_dataset(bill) if entry.job == bill.job]
    yield from _faults(against_policy(own, policy, like=_like(run), untold=_UNTOLD), silo)
    rules = policy.rules(bill.dataset)
    for line in run.lines:
        released = line.evaluation.released.get(silo, {}) if line.evaluation else {}
        faults = [*_released(released, rules)]
        for charge in bill.of("evaluation", line.round) if released else ():
            faults += _noise_faults(charge.parts, released, rules)
        yield from ((True, f"{silo}: round {line.round}: {fault}") for fault in faults)


def _released(released: Mapping[str, str], rules: Rules | None) -> Iterator[str]:
    for name, how in released.items():
        allowed = rules.metric(name).release if rules else "withheld"
        if how not in _WAYS or _WAYS.index(how) > _WAYS.index(allowed):
            yield f"{name} left as {how!r}; allowed: {allowed!r}"


def _noise_faults(
    parts: tuple[Segment, ...], released: Mapping[str, str], rules: Rules | None
) -> Iterator[str]:
    """Each metric that left with noise has at least the noise that the policy asks for."""
    asked = sorted(
        (rules.metric(name).noise_multiplier if rules else None) or 0.0
        for name, how in released.items()
        if how == "noised"
    )
    ran = sorted(part.noise_multiplier for part in parts for _ in range(part.steps))
    if len(ran) != len(asked) or any(r < a for r, a in zip(ran, asked, strict=True)):
        yield f"metrics left with noise multipliers {ran}; allowed: {asked} or more"


def _like(run: Evidence) -> Request:
    """What entries do not say of the job."""
    settings = run.settings
    return Request(
        dataset="",
        task=settings.task,
        requester="",
        job="",
        kind="train",
        at=datetime.now(UTC),
        clip=settings.privacy.clip if settings.privacy else None,
        encrypted=settings.encryption is not None,
        silos_in_sum=settings.encryption.smallest_sum if settings.encryption else None,
    )


def _as_planned(run: Evidence, silo: str, bill: Bill) -> Findings:
    plan = (run.plans or {}).get(silo)
    if plan is None:
        yield True, f"{silo}: silos.json does not know it"
        return
    yield from _plan_faults(run, silo, plan)
    for charge in bill.charges:
        if charge.use != "training" or charge.open:
            continue
        for fault in _part_faults(charge.parts, plan):
            yield True, f"{silo}, round {charge.reserve.round}: {fault}"


def _plan_faults(run: Evidence, silo: str, plan: Mapping[str, Any]) -> Findings:
    """Sampling rate and steps as the settings and the number of records give them."""
    records, training = plan.get("records"), run.settings.training
    if not isinstance(records, int) or records < 1:
        yield True, f"{silo}: silos.json has no number of records"
        return
    rate = min(1.0, training.batch_size / records)
    steps = training.steps or math.ceil(records / training.batch_size) * training.epochs
    if plan.get("sampling_rate") != rate or plan.get("steps_per_round") != steps:
        yield (
            True,
            f"{silo}: {records} records give sampling rate {rate:.6g} and {steps} steps a round; "
            "silos.json has others",
        )


def _part_faults(parts: tuple[Segment, ...], plan: Mapping[str, Any]) -> Iterator[str]:
    if len(parts) > 1:
        yield "more than one mechanism"
    for part in parts:
        rate, steps, noise = (
            plan.get(key) for key in ("sampling_rate", "steps_per_round", "noise_multiplier")
        )
        if part.sampling_rate != rate:
            yield f"sampling rate {part.sampling_rate:.6g}, and the plan has {rate}"
        if part.steps != steps:
            yield f"{part.steps} steps, and the plan has {steps}"
        if not isinstance(noise, int | float) or part.noise_multiplier < noise:
            yield f"noise multiplier {part.noise_multiplier:g}, below the plan's {noise}"
