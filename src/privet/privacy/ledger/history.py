"""What the entries say, replayed: pure, and the only source of every figure and every limit."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

from privet.errors import PrivacyError
from privet.privacy.accounting.events import Segment
from privet.privacy.accounting.spending import check_delta
from privet.privacy.dp_events import DpEvent
from privet.privacy.ledger.costs import covers, epsilon_of, event_of, parts_of
from privet.privacy.ledger.entries import KINDS, START, Entry
from privet.privacy.ledger.errors import LedgerRefusal

Scope = Literal["dataset", "job", "month", "requester"]

_OF_WHAT = {
    "dataset": "over the life of the data set",
    "job": "per job",
    "month": "per calendar month (UTC)",
    "requester": "per requester",
}


@dataclass(frozen=True)
class Limit:
    """At most `epsilon` at `delta`, for all that a data set spends within one `scope`.

    "dataset": over its whole life. "job", "requester": by that job, that requester. "month": in the
    calendar month (UTC) of the reservation. PrivacyError for values out of range.
    """

    epsilon: float
    delta: float
    scope: Scope = "dataset"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.epsilon) and self.epsilon >= 0):
            raise PrivacyError(f"limit: epsilon = {self.epsilon} must be finite and at least 0")
        check_delta(self.delta)
        if self.scope not in get_args(Scope):
            known = ", ".join(get_args(Scope))
            raise PrivacyError(f"limit: scope = {self.scope!r} must be one of {known}")

    def __str__(self) -> str:
        return f"epsilon {self.epsilon:g} at delta {self.delta:g} {_OF_WHAT[self.scope]}"


@dataclass(frozen=True)
class Projection:
    """What a limit's scope has spent, and what it would have spent after one more event."""

    limit: Limit
    spent: float
    projected: float

    @property
    def fits(self) -> bool:
        """Whether the limit would still hold."""
        return self.projected <= self.limit.epsilon


class BudgetExceeded(LedgerRefusal):
    """A reservation that would break a limit; nothing was recorded."""

    def __init__(self, projection: Projection) -> None:
        self.limit = projection.limit
        self.spent = projection.spent
        self.projected = projection.projected
        super().__init__(
            f"the limit is {self.limit}; spent so far is {self.spent:.4g}, "
            f"and this round would make it {self.projected:.4g}"
        )


JobDecision = Literal["approved", "refused", "cancelled"]
ENDINGS: frozenset[JobDecision] = frozenset({"refused", "cancelled"})
"""Decisions after which nothing of a job runs any more, whatever is decided later."""


@dataclass(frozen=True, kw_only=True)
class JobTerms:
    """On what terms a job uses a data set: round by round, each a few times, until its order ends.

    Training and evaluation are counted apart. A use that was released before a record was opened
    does not count.
    """

    attempts: int
    """Most uses of one round; the round before it is over with the first of them."""
    order: str | None = None
    """SHA-256 of the order: another order under the same job is none of this job."""
    until: datetime | None = None
    approval: bool = False
    """Whether the holder lets every single job in, or none of it runs."""

    def ended(self, at: datetime) -> str | None:
        """What to say of the order's end if it has come."""
        if self.until is None or at < self.until:
            return None
        return f"the order ended on {self.until:%Y-%m-%d at %H:%M} UTC"


class TermsRefused(LedgerRefusal):
    """A use that the terms of its job do not allow (any more); nothing was recorded."""


CLOCK_TOLERANCE = timedelta(minutes=5)
"""How far an entry's time may lie before its predecessor's: clocks are corrected now and then."""


@dataclass(frozen=True)
class Charge:
    """A reservation and what became of it; `event` is what it costs now, or None once released."""

    reserve: Entry
    event: str | None
    open: bool = True

    @property
    def parts(self) -> tuple[Segment, ...]:
        """What the data set is charged for."""
        return parts_of(self.event) if self.event else ()

    @property
    def use(self) -> str:
        """What the records were wanted for: "training" or "evaluation"."""
        return str(_detail(self.reserve).get("use", "training"))


class History:
    """The entries of one ledger in order, and what follows from them.

    An entry never replaces another: a reservation is charged in full until a commit lowers it to
    what ran or a release takes it back, and for ever if neither comes.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.entries: list[Entry] = []
        self.charges: dict[int, Charge] = {}
        self.fingerprints: dict[str, dict[str, str]] = {}
        self._owners: dict[str, str] = {}
        self._growing: set[str] = set()
        self._rounds: dict[tuple[str | None, str | None, int | None], list[int]] = {}
        self._notes: set[tuple[str | None, str | None, str | None]] = set()
        self._uses: dict[tuple[str | None, str | None, str], list[tuple[int, int]]] = {}
        self._orders: dict[str | None, str] = {}
        self._ended: dict[str | None, str] = {}
        self._approved: set[tuple[str | None, str]] = set()
        self._failures: Counter[tuple[str, str]] = Counter()
        for entry in entries:
            self.add(entry)

    @property
    def last(self) -> Entry | None:
        """The newest entry."""
        return self.entries[-1] if self.entries else None

    @property
    def datasets(self) -> tuple[str, ...]:
        """The registered data sets, in the order of their registration."""
        return tuple(self.fingerprints)

    def may_grow(self, dataset: str) -> bool:
        """Whether the operator has said that the records changed, and no others came yet."""
        return dataset in self._growing

    def owner(self, content: str) -> str | None:
        """The data set that was the first to hold records with this sealed digest."""
        return self._owners.get(content)

    def charged_for(self, dataset: str, job: str, round_: int) -> Iterator[Charge]:
        """What counts against `dataset` for one round of a job."""
        for sequence in self._rounds.get((dataset, job, round_), ()):
            if self.charges[sequence].event is not None:
                yield self.charges[sequence]

    def failures(self, dataset: str, who: str) -> int:
        """Counted failures in answers to a requester, since the holder last forgave them."""
        return self._failures[dataset, who]

    def holds_note(self, dataset: str, job: str, detail: str) -> bool:
        """Whether this remark about a job was recorded."""
        return (dataset, job, detail) in self._notes

    def objection(
        self, terms: JobTerms, *, dataset: str, job: str, use: str, round_: int, time: str
    ) -> str | None:
        """Why `use` of `dataset` in this round would break the terms of its job, if it would.

        The reason names no round: who asks for one after the other is told the same of each.
        """
        if ended := terms.ended(moment(time)):
            return ended
        if self._orders.get(job, terms.order) != terms.order:
            return "another order has this job's number"
        if job in self._ended:
            return self._ended[job]
        if terms.approval and not self.approved(job, terms.order):
            return "nobody has approved it here"
        last, attempts = self._last_use(dataset, job, use)
        if round_ < last:
            return "the job is past this round, and an earlier one is not used again"
        if round_ == last and attempts >= terms.attempts:
            return f"this round was used as often as is allowed (attempts_per_round, {attempts})"
        return None

    def ended(self, job: str) -> str | None:
        """Who ended a job for good, if anybody did: a silo's holder, or an administrator."""
        return self._ended.get(job)

    def approved(self, job: str, order: str | None) -> bool:
        """Whether the holder has let this order in."""
        return order is not None and (job, order) in self._approved

    def _last_use(self, dataset: str, job: str, use: str) -> tuple[int, int]:
        """The round that was used last, and how often; 0 before the first."""
        last, attempts = 0, 0
        for round_, sequence in reversed(self._uses.get((dataset, job, use), [])):
            if sequence in self.charges and self.charges[sequence].event is None:
                continue  # released: no record was opened
            if attempts and round_ != last:
                break
            last, attempts = round_, attempts + 1
        return last, attempts

    def problems(self, entry: Entry) -> Iterator[str]:
        """What is wrong with `entry` as the next one; nothing when it belongs here."""
        last = self.last
        if entry.sequence != (last.sequence + 1 if last else 1):
            yield f"it follows entry {last.sequence if last else 0}"
        if entry.previous != (last.hash if last else START):
            yield "it does not continue the chain: an entry before it was changed or is missing"
        if entry.hash != entry.digest():
            yield "its hash is not that of its content"
        yield from self._untimely(entry)
        yield from self._unfounded(entry)

    def add(self, entry: Entry) -> None:
        """Take `entry` in; the caller has asked for its `problems`."""
        self.entries.append(entry)
        match entry.kind:
            case "reserve":
                self.charges[entry.sequence] = Charge(entry, entry.event)
                place = entry.dataset, entry.job, entry.round
                self._rounds.setdefault(place, []).append(entry.sequence)
                self._count(entry)
            case "commit" | "release":
                number = entry.reservation or 0
                # One without its reservation is what `problems` finds.
                if number in self.charges:
                    charge = self.charges[number]
                    self.charges[number] = replace(charge, event=entry.event, open=False)
            case "note":
                self._notes.add((entry.dataset, entry.job, entry.detail))
                self._learn(entry)
                if entry.round is not None:  # a use that is not charged
                    self._count(entry)

    def _count(self, entry: Entry) -> None:
        detail = _detail(entry)
        place = entry.dataset, entry.job, str(detail.get("use", "training"))
        self._uses.setdefault(place, []).append((entry.round or 0, entry.sequence))
        if "order" in detail:
            self._orders.setdefault(entry.job, str(detail["order"]))

    def _learn(self, note: Entry) -> None:
        detail = _detail(note)
        fingerprint = detail.get("fingerprint")
        decision = detail.get("decision")
        if decision in ENDINGS:
            self._ended.setdefault(note.job, str(detail.get("text")))
        elif decision == "approved":
            self._approved.add((note.job, str(detail.get("order"))))
        if note.dataset and detail.get("counted"):
            self._failures[note.dataset, note.who] += 1
        if note.dataset and (forgiven := detail.get("forgiven")):
            self._failures.pop((note.dataset, str(forgiven)), None)
        if note.dataset and detail.get("growing"):
            self._growing.add(note.dataset)
        if note.dataset and fingerprint:
            self._growing.discard(note.dataset)
            self.fingerprints[note.dataset] = fingerprint
            # The first name stays the owner: a data set that grew must not free its old records.
            self._owners.setdefault(fingerprint["content"], note.dataset)

    def charged(
        self,
        dataset: str,
        *,
        job: str | None = None,
        month: str | None = None,
        who: str | None = None,
    ) -> Iterator[Charge]:
        """What counts against `dataset`; where asked, only of one job, month, requester."""
        for charge in self.charges.values():
            reserve = charge.reserve
            if (
                reserve.dataset == dataset
                and charge.event is not None
                and (job is None or reserve.job == job)
                and (month is None or reserve.month == month)
                and (who is None or reserve.who == who)
            ):
                yield charge

    def events(self, dataset: str) -> list[DpEvent]:
        """The events that `dataset` is charged for: what ran, and reservations that stand."""
        return [event_of(charge.event) for charge in self.charged(dataset) if charge.event]

    def spent(
        self,
        dataset: str,
        *,
        delta: float,
        job: str | None = None,
        month: str | None = None,
        who: str | None = None,
    ) -> float:
        """Epsilon at `delta` of what `charged` gives."""
        charges = self.charged(dataset, job=job, month=month, who=who)
        return epsilon_of((part for charge in charges for part in charge.parts), delta=delta)

    def project(
        self,
        limits: Iterable[Limit],
        *,
        dataset: str,
        job: str,
        who: str,
        month: str,
        parts: Iterable[Segment],
    ) -> Iterator[Projection]:
        """For each limit, what its scope has spent and would have spent after `parts`."""
        filters: dict[str, dict[str, str]] = {
            "dataset": {},
            "job": {"job": job},
            "month": {"month": month},
            "requester": {"who": who},
        }
        more = tuple(parts)
        for limit in limits:
            charges = self.charged(dataset, **filters[limit.scope])
            before = [part for charge in charges for part in charge.parts]
            spent = epsilon_of(before, delta=limit.delta)
            yield Projection(limit, spent, epsilon_of([*before, *more], delta=limit.delta))

    def _untimely(self, entry: Entry) -> Iterator[str]:
        try:
            time = moment(entry.time)
            before = moment(self.last.time) if self.last else time
        except ValueError:
            yield f"its time {entry.time!r} is no time in UTC"
            return
        if time < before - CLOCK_TOLERANCE and not _detail(entry).get("clock_set_back"):
            yield f"its time {entry.time} lies before that of the entry before it"

    def _unfounded(self, entry: Entry) -> Iterator[str]:
        """Entries that the rules of reserve, commit and release do not allow."""
        if entry.kind not in KINDS:
            yield f"its kind {entry.kind!r} is unknown"
        elif entry.kind == "reserve":
            if entry.dataset not in self.fingerprints:
                yield f"it reserves for data set {entry.dataset!r}, which is not registered"
            yield from _unaccountable(entry)
        elif entry.kind != "note":
            yield from self._unpaid(entry)

    def _unpaid(self, entry: Entry) -> Iterator[str]:
        charge = self.charges.get(entry.reservation or 0)
        if charge is None:
            yield f"its reservation {entry.reservation} does not exist"
            return
        if not charge.open:
            yield f"its reservation {entry.reservation} was closed before"
        if _subject(entry) != _subject(charge.reserve):
            yield "it is about another data set, job or round than its reservation"
        if entry.kind == "release":
            if entry.event is not None:
                yield "it takes a reservation back and has an event all the same"
            return
        problems = [*_unaccountable(charge.reserve), *_unaccountable(entry)]
        yield from problems
        if not problems and not covers(_parts(charge.reserve), _parts(entry)):
            yield f"it commits more than reservation {entry.reservation} holds"


def moment(time: str) -> datetime:
    """The time of an entry; ValueError unless it is written as entries write it."""
    parsed = datetime.fromisoformat(time)
    if parsed.isoformat(timespec="microseconds") != time or not time.endswith("+00:00"):
        raise ValueError(time)
    return parsed


def _subject(entry: Entry) -> tuple[str | None, str | None, int | None]:
    return entry.dataset, entry.job, entry.round


def _parts(entry: Entry) -> tuple[Segment, ...]:
    return parts_of(entry.event or "")


def _unaccountable(entry: Entry) -> Iterator[str]:
    try:
        _parts(entry)
    except PrivacyError as error:
        yield f"its event cannot be accounted: {error}"


def _detail(entry: Entry) -> dict[str, Any]:
    try:
        detail = json.loads(entry.detail or "{}")
    except (ValueError, RecursionError):
        return {}
    return detail if isinstance(detail, dict) else {}
