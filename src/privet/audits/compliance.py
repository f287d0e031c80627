"""Did what ran keep to the policy, to the run's own settings and to the smallest encrypted sum?

Budgets are held against every moment of a ledger, its entries replayed in their order. Epsilon only
rises with a reservation and only falls with a commit or a release, so it is computed right before
every fall, and at the end: between two of these no moment was worse.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from privet.audits.claims import Claim, judged, unknown
from privet.audits.evidence import Evidence, JobLedger
from privet.audits.ledgers import Account
from privet.audits.record import Findings, by_ledgers
from privet.errors import PrivetError
from privet.files import demand_file
from privet.privacy.accounting.events import Segment
from privet.privacy.encryption.keys import Session, load_roster
from privet.privacy.encryption.masks import read_confirmation
from privet.privacy.ledger import Charge, Entry, Limit
from privet.privacy.ledger.costs import epsilon_of, parts_of
from privet.privacy.ledger.history import moment
from privet.privacy.policy import Policy, Request
from privet.privacy.policy.policy import budget_limits
from privet.privacy.policy.rules import Rules
from privet.record.folder import CHECKPOINT
from privet.record.history import RoundRecord

ROUNDING = 1e-6
"""Relative: how far above a limit a figure may lie that was computed another way."""

Key = tuple[str, ...]

_SCOPES: dict[str, Callable[[Entry], Key]] = {
    "dataset": lambda reserve: (str(reserve.dataset),),
    "job": lambda reserve: (str(reserve.dataset), str(reserve.job)),
    "month": lambda reserve: (str(reserve.dataset), reserve.month),
    "requester": lambda reserve: (str(reserve.dataset), reserve.who),
}


def use_of(reserve: Entry) -> str:
    """What a reservation was for: "training" or "evaluation"."""
    return Charge(reserve, reserve.event).use


def encrypted(reserve: Entry) -> bool:
    """Whether what was to leave was encrypted, as the silo wrote it down."""
    return '"encrypted":true' in (reserve.detail or "")


def exceeded(entries: Sequence[Entry], limits: Iterable[Limit]) -> Iterator[str]:
    """The first moment of each scope at which a limit did not hold, in words."""
    for limit in limits:
        scope = _SCOPES[limit.scope]
        for key, events in _scoped(entries, scope).items():
            for entry, parts in _peaks(events):
                spent = epsilon_of(parts, delta=limit.delta)
                if spent > limit.epsilon * (1 + ROUNDING):
                    yield (
                        f"{', '.join(key)}: by entry {entry.sequence} epsilon {spent:.4f} was "
                        f"spent, and the limit is {limit}"
                    )
                    break


def beyond_policy(entries: Sequence[Entry], policy: Policy) -> Iterator[str]:
    """The moments at which a budget of the policy did not hold."""
    for dataset in _datasets(entries):
        rules = policy.rules(dataset)
        if rules is None:
            continue
        own = [entry for entry in entries if entry.dataset == dataset]
        limits = [
            Limit(each.epsilon, each.delta, each.scope) for each in budget_limits(rules.budget)
        ]
        yield from exceeded(own, limits)


def against_policy(
    entries: Sequence[Entry], policy: Policy, *, template: Request, unknowable: Collection[str] = ()
) -> Iterator[str]:
    """Reservations that the policy does not allow, by its rules but for budgets.

    `template` holds what entries do not say of the job; `unknowable` are rules (keys of the policy
    file) that it cannot be held against.
    """
    reported: set[tuple[str, str]] = set()
    for entry in entries:
        if entry.kind != "reserve" or entry.event is None:
            continue
        for limit, text in _refusals(entry, policy, template):
            place = str(entry.dataset), text
            if limit not in unknowable and place not in reported:
                reported.add(place)
                yield f"{entry.dataset}: entry {entry.sequence}: {text}"


def _refusals(entry: Entry, policy: Policy, template: Request) -> Iterator[tuple[str, str]]:
    request = replace(
        template,
        dataset=str(entry.dataset),
        requester=entry.who,
        job=str(entry.job),
        at=moment(entry.time),
    )
    parts = parts_of(entry.event or "")
    if use_of(entry) == "evaluation":
        yield from _of_decision(policy, replace(request, kind="evaluate"))
        yield from _too_little_noise(policy, request.dataset, parts)
        return
    for part in parts:
        as_sent = replace(request, encrypted=encrypted(entry))
        yield from _of_decision(policy, _training(as_sent, part))


def _training(request: Request, part: Segment) -> Request:
    if part.noise_multiplier == 0:
        return replace(request, kind="train")
    return replace(
        request,
        kind="train",
        unit="record",
        mechanism="dp-sgd",
        noise_multiplier=part.noise_multiplier,
        sampling_rate=part.sampling_rate,
    )


def _of_decision(policy: Policy, request: Request) -> Iterator[tuple[str, str]]:
    for refusal in policy.decide(request).refusals:
        yield refusal.limit, str(refusal)


def _too_little_noise(
    policy: Policy, dataset: str, parts: Sequence[Segment]
) -> Iterator[tuple[str, str]]:
    rules = policy.rules(dataset)
    metrics = list((rules.metrics if rules else {}).values())
    if any(metric.release == "exact" for metric in metrics):
        return  # which metric the noise was on, an entry does not say
    noised = [metric.noise_multiplier for metric in metrics]
    least = min((noise for noise in noised if noise is not None), default=None)
    for part in parts:
        if least is None or part.noise_multiplier < least:
            allowed = "no metric with noise" if least is None else f"{least:g} or more"
            yield (
                "metrics",
                f"metrics: noise multiplier {part.noise_multiplier:g}; allowed: {allowed}",
            )


def _datasets(entries: Sequence[Entry]) -> list[str]:
    return list(dict.fromkeys(e.dataset for e in entries if e.kind == "reserve" and e.dataset))


def _scoped(
    entries: Sequence[Entry], scope: Callable[[Entry], Key]
) -> dict[Key, list[tuple[Entry, Entry]]]:
    """By scope: each entry that moves its spending, with the reservation that it is about."""
    reserves = {entry.sequence: entry for entry in entries if entry.kind == "reserve"}
    found: dict[Key, list[tuple[Entry, Entry]]] = defaultdict(list)
    for entry in entries:
        about = reserves.get(entry.sequence if entry.kind == "reserve" else entry.reservation or 0)
        if about is not None and entry.kind != "note":
            found[scope(about)].append((entry, about))
    return found


def _peaks(events: Iterable[tuple[Entry, Entry]]) -> Iterator[tuple[Entry, list[Segment]]]:
    """What was charged right before each fall, and at the end, with the entry that led there."""
    charged: dict[int, str] = {}
    last: Entry | None = None
    for entry, about in events:
        falls = entry.kind != "reserve" and entry.event != charged.get(about.sequence)
        if falls and last is not None:
            yield last, _parts(charged.values())
            last = None
        if entry.event is None:
            charged.pop(about.sequence, None)
        else:
            charged[about.sequence] = entry.event
        if entry.kind == "reserve":
            last = entry
    if last is not None:
        yield last, _parts(charged.values())


def _parts(events: Iterable[str]) -> list[Segment]:
    return [part for event in events for part in parts_of(event)]


_BUDGET = "The budgets of the policy held at every moment, between entries too."
_POLICY = "Every use of the records was one that the policy allows."
_UNKNOWABLE = frozenset({"code"})
"""A task's code is not in a run folder."""
_UNKNOWABLE_BY_LEDGERS = frozenset({"code", "tasks", "sending.smallest_sum"})

_RELEASES = ("withheld", "noised", "exact")
"""From the strictest on."""


def claims(run: Evidence) -> Iterator[Claim]:
    """That a run kept to its policy and to its settings."""
    policy = run.policy
    if policy is None:
        why = "the run has no policy.toml, and none was given"
        yield unknown("budget.every-moment", run.subject, _BUDGET, why, decisive=False)
        yield unknown("policy.respected", run.subject, _POLICY, why, decisive=False)
    else:
        yield by_ledgers(
            run,
            "budget.every-moment",
            _BUDGET,
            lambda _, silo, ledger: _faults(beyond_policy(_of_dataset(ledger), policy), silo),
        )
        yield by_ledgers(
            run,
            "policy.respected",
            _POLICY,
            lambda run, silo, ledger: _respected(run, silo, ledger, policy),
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
    job = Request(
        dataset="", task="unknown", requester="", job="", kind="train", at=datetime.now(UTC)
    )
    unknowable = _UNKNOWABLE_BY_LEDGERS
    against = against_policy(account.entries, policy, template=job, unknowable=unknowable)
    yield judged("policy.respected", account.subject, _POLICY, faults=against)


def _of_dataset(ledger: JobLedger) -> list[Entry]:
    return [entry for entry in ledger.account.entries if entry.dataset == ledger.dataset]


def _faults(texts: Iterator[str], silo: str) -> Findings:
    return ((True, f"{silo}: {text}") for text in texts)


def _respected(run: Evidence, silo: str, ledger: JobLedger, policy: Policy) -> Findings:
    own = [entry for entry in _of_dataset(ledger) if entry.job == ledger.job]
    against = against_policy(own, policy, template=_template(run), unknowable=_UNKNOWABLE)
    yield from _faults(against, silo)
    rules = policy.rules(ledger.dataset)
    for line in run.lines:
        released = line.evaluation.released.get(silo, {}) if line.evaluation else {}
        faults = [*_released(released, rules)]
        for charge in ledger.of("evaluation", line.round) if released else ():
            faults += _noise_faults(charge.parts, released, rules)
        yield from ((True, f"{silo}: round {line.round}: {fault}") for fault in faults)


def _released(released: Mapping[str, str], rules: Rules | None) -> Iterator[str]:
    for name, how in released.items():
        allowed = rules.metric(name).release if rules else "withheld"
        if how not in _RELEASES or _RELEASES.index(how) > _RELEASES.index(allowed):
            yield f"{name} left as {how!r}; allowed: {allowed!r}"


def _noise_faults(
    parts: tuple[Segment, ...], released: Mapping[str, str], rules: Rules | None
) -> Iterator[str]:
    """Each metric that left with noise has at least the noise that the policy requires."""
    required = sorted(
        (rules.metric(name).noise_multiplier if rules else None) or 0.0
        for name, how in released.items()
        if how == "noised"
    )
    ran = sorted(part.noise_multiplier for part in parts for _ in range(part.steps))
    if len(ran) != len(required) or any(r < a for r, a in zip(ran, required, strict=True)):
        yield f"metrics left with noise multipliers {ran}; allowed: {required} or more"


def _template(run: Evidence) -> Request:
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


def _as_planned(run: Evidence, silo: str, ledger: JobLedger) -> Findings:
    plan = (run.plans or {}).get(silo)
    if plan is None:
        yield True, f"{silo}: silos.json does not know it"
        return
    yield from _plan_faults(run, silo, plan)
    for charge in ledger.charges:
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


_FACTS = "sealed.facts"
_ROSTER = "keys/roster.toml"


def claims_of_sums(run: Evidence) -> Iterator[Claim]:
    """That every encrypted sum was of the silos that the history names, and of enough of them."""
    encryption = run.settings.encryption
    if encryption is None:
        return
    statement = (
        f"Every encrypted sum was of the silos that the history names, {encryption.smallest_sum} "
        "or more."
    )
    faults: list[str] = []
    for line in run.lines[1:]:
        faults += _sum_faults(run, line, least=encryption.smallest_sum)
    known, last = _last_sum(run)
    faults += [known] if known else []
    if not faults and all(run.ledger(silo) is None for silo in run.silos):
        why = "no ledger was given to hold the sums against"
        yield unknown("encryption.sums", run.subject, statement, why)
        return
    notes = [last] if last else []
    yield judged("encryption.sums", run.subject, statement, faults=faults, notes=notes)


def _sum_faults(run: Evidence, line: RoundRecord, *, least: int) -> Iterator[str]:
    place, count = f"round {line.round}", len(line.participants)
    if count < least and not line.skipped:
        yield f"{place}: a sum of {count}; encryption.smallest_sum = {least}"
    if len(set(line.participants)) < count:
        yield f"{place}: a silo is in the sum twice"
    failed = {failure.silo for failure in line.failures}
    for silo in run.silos:
        ledger = run.ledger(silo)
        charges = ledger.of("training", line.round) if ledger else []
        if ledger and silo in line.participants and not charges:
            yield f"{place}: {silo} is in the sum, and its ledger has no entry"
        if any(not encrypted(charge.reserve) for charge in charges):
            yield f"{place}: the entry of {silo} says that its update was not encrypted"
        committed = any(not charge.open for charge in charges)
        if committed and silo not in line.participants and silo not in failed:
            yield f"{place}: {silo} committed an update, and the sum is without it"


def _last_sum(run: Evidence) -> tuple[str | None, str | None]:
    """Who confirmed the model in the checkpoint, by their signatures: a fault, or a remark."""
    found = _confirmed(run.folder)
    summed = [line for line in run.lines[1:] if not line.skipped]
    if found is None or not summed:
        return None, None
    (round_, names), last = found, summed[-1]
    if round_ != last.round or not set(names) <= set(last.participants):
        return (
            f"round {last.round}: the model in the checkpoint was confirmed by {', '.join(names)} "
            f"in round {round_}, and the history names {', '.join(sorted(last.participants))}",
            None,
        )
    return None, f"{len(names)} silos of round {round_} signed for the model in the checkpoint"


def _confirmed(folder: Path) -> tuple[int, tuple[str, ...]] | None:
    """Round and signers of the checkpoint's model; None where they cannot be checked here."""
    try:
        with safe_open(demand_file(folder / CHECKPOINT), framework="np") as file:
            facts = json.loads(file.get_tensor(_FACTS).tobytes())
        roster = load_roster(folder / _ROSTER)
        session = Session(run=facts["run"], epoch=facts["confirmed_in"], roster=roster)
        stated = [
            read_confirmation(bytes.fromhex(each), session=session)
            for each in facts["confirmations"]
        ]
        rounds = {round_ for _, (round_, _) in stated}
        return (rounds.pop(), tuple(name for name, _ in stated)) if len(rounds) == 1 else None
    # A damaged checkpoint is not part of the record.
    except (PrivetError, SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None
