"""What was allowed, held against every moment of a ledger: entries replayed in their order.

Epsilon only rises with a reservation and only falls with a commit or a release, so it is asked for
right before every fall, and at the end: between two of these no moment was worse.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from privet.privacy.accounting.events import Segment
from privet.privacy.ledger import Charge, Entry, Limit
from privet.privacy.ledger.costs import epsilon_of, parts_of
from privet.privacy.ledger.history import moment
from privet.privacy.policy import Policy, Request
from privet.privacy.policy.judge import budget_limits

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
    entries: Sequence[Entry], policy: Policy, *, like: Request, untold: Collection[str] = ()
) -> Iterator[str]:
    """Reservations that the policy does not allow, by its rules but for budgets.

    `like` says of the job what entries do not; `untold` are rules (keys of the policy file) that it
    cannot be held against.
    """
    told: set[tuple[str, str]] = set()
    for entry in entries:
        if entry.kind != "reserve" or entry.event is None:
            continue
        for limit, text in _refusals(entry, policy, like):
            place = str(entry.dataset), text
            if limit not in untold and place not in told:
                told.add(place)
                yield f"{entry.dataset}: entry {entry.sequence}: {text}"


def _refusals(entry: Entry, policy: Policy, like: Request) -> Iterator[tuple[str, str]]:
    request = replace(
        like,
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
        sealed = replace(request, encrypted=encrypted(entry))
        yield from _of_decision(policy, _training(sealed, part))


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
