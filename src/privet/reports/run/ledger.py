"""What the ledger of the run says, and whether the history says the same.

Epsilon is a pure function of the charged events, so silos with equal events have equal epsilons:
events are compared, and epsilon is computed for a few silos that stand out.

What each silo's records were charged for: by the ledger, and by the history.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from privet.charts.formatting import bound, counted, in_rounds, listed
from privet.privacy.ledger import Charge, Entry, History
from privet.record.history import event_text
from privet.record.run import MOST_SIGNATURES, LedgerReading, Run
from privet.reports.run.curves import FEW, in_order

_REFUSED = "refused: "


@dataclass(frozen=True)
class Charged:
    """Events with their numbers, and the (use, round) pairs that they belong to."""

    events: Counter[str]
    rounds: frozenset[tuple[str, int]]


@dataclass(frozen=True)
class ChargeCounts:
    """The entries about one silo, counted. A reservation that stands is charged in full."""

    reserved: int
    """Rounds of training."""
    committed: int
    """Of these, how many were lowered to what ran."""
    standing: int
    """Reservations, whatever for, that were neither committed nor taken back."""
    evaluations: int
    """Evaluations with noise."""
    refusals: int
    """Refusals that were noted; a reason that repeats is noted once."""
    charged: Charged

    @classmethod
    def of(cls, charges: Iterable[Charge], *, refusals: int = 0) -> ChargeCounts:
        """The account that these charges make."""
        found = [(charge, charge.use) for charge in charges]
        training = [charge for charge, use in found if use == "training"]
        counted = [(c, use) for c, use in found if c.event is not None]
        return cls(
            reserved=len(training),
            committed=sum(not c.open and c.event is not None for c in training),
            standing=sum(charge.open for charge, _ in found),
            evaluations=sum(use == "evaluation" for _, use in counted),
            refusals=refusals,
            charged=Charged(
                Counter(charge.event or "" for charge, _ in counted),
                frozenset((use, charge.reserve.round or 0) for charge, use in counted),
            ),
        )


def accounts(history: History) -> dict[str, ChargeCounts]:
    """The account of each silo, by the ledger."""
    charges: dict[str, list[Charge]] = defaultdict(list)
    for charge in history.charges.values():
        charges[charge.reserve.dataset or ""].append(charge)
    refusals = Counter(entry.dataset for entry in history.entries if _is_refusal(entry))
    names = {*history.datasets, *charges, *(name for name in refusals if name)}
    return {name: ChargeCounts.of(charges[name], refusals=refusals[name]) for name in names}


def told(run: Run) -> dict[str, Charged | None]:
    """What the history says of each silo; None where the silo keeps its account to itself."""
    events: dict[str, Counter[str]] = defaultdict(Counter)
    rounds: dict[str, set[tuple[str, int]]] = defaultdict(set)
    kept = set(run.kept)
    for use, number, silo, event in _reports(run):
        if event is None:
            kept.add(silo)
        else:
            events[silo][event] += 1
            rounds[silo].add((use, number))
    known = {name: Charged(events[name], frozenset(rounds[name])) for name in events}
    return {**known, **dict.fromkeys(kept)}


def _reports(run: Run) -> Iterable[tuple[str, int, str, str | None]]:
    """Use, round, silo and event of everything that the history reports."""
    for entry in run.rounds:
        for silo, event in (entry.events or {}).items():
            yield "training", entry.round, silo, event_text(event)
        for silo, event in (entry.evaluation.events if entry.evaluation else {}).items():
            yield "evaluation", entry.round, silo, event_text(event)


def _is_refusal(entry: Entry) -> bool:
    # A look at the text first: few notes are refusals, and the others need not be parsed.
    if entry.kind != "note" or _REFUSED not in (entry.detail or ""):
        return False
    try:
        return str(json.loads(entry.detail or "").get("text", "")).startswith(_REFUSED)
    except (ValueError, AttributeError, RecursionError):
        return False


APART = 12
"""At most this many silos that stand out are shown by themselves, with their epsilon."""
FINDINGS = 3
"""At most this many findings are told at the top of the page."""

Comparison = Literal["equal", "more", "less", "kept", "not compared"]
_EMPTY = ChargeCounts.of(())


@dataclass(frozen=True)
class SiloRow:
    """One silo: its account, and how the ledger compares with the history."""

    silo: str
    account: ChargeCounts
    comparison: Comparison
    where: str = ""
    """The rounds in which one of the two has a charge and the other has none."""
    epsilon: float | None = None
    """By the ledger, where the history has another or none."""

    @property
    def rank(self) -> int:
        """0 where nothing is to be seen; the higher, the sooner a person should look."""
        differs = {"less": 4, "more": 3}.get(self.comparison, 0)
        return differs or 2 * bool(self.account.standing) or int(bool(self.account.refusals))


@dataclass(frozen=True)
class Totals:
    """The entries of all silos together."""

    entries: int
    reserved: int
    committed: int
    standing: int
    evaluations: int
    refusals: int
    last: str
    """The first digits of the last hash: with it, a copy can be recognised."""


@dataclass(frozen=True)
class LedgerSection:
    """`rows` has every silo; of many, `apart` are those that stand out, and `further` more do."""

    totals: Totals | None
    """None when the file cannot be read."""
    sound: str
    agreement: str
    rows: tuple[SiloRow, ...]
    apart: tuple[SiloRow, ...]
    further: int
    alarms: tuple[str, ...]
    """Why what was spent cannot be taken from it."""
    beyond: str | None
    """Who has spent more than the headline says, if anybody."""


def ledger(run: Run) -> LedgerSection | None:
    """The ledger beside the history; None for a folder without one."""
    books = run.books
    if books is None:
        return None
    if books.history is None:
        return LedgerSection(None, _sound(books), "", (), (), 0, tuple(_alarms(books, ())), None)
    rows = _rows(run, books.history)
    odd = sorted((row for row in rows if row.rank), key=_most_odd_first)
    # Of those that stand out alone: composing takes far longer than comparing events.
    figures = {row.silo: _with_epsilon(run, books, row) for row in odd[:APART]}
    rows = [figures.get(row.silo, row) for row in rows]
    many = len(rows) > FEW
    return LedgerSection(
        totals=_totals(books.history, rows),
        sound=_sound(books),
        agreement=_agreement(rows),
        rows=tuple(rows),
        apart=tuple(figures.values()) if many else (),
        further=max(0, len(odd) - APART) if many else 0,
        alarms=tuple(_alarms(books, rows)),
        beyond=_beyond(run, rows),
    )


def _most_odd_first(row: SiloRow) -> tuple[int, int]:
    return -row.rank, -row.account.charged.events.total()


def _rows(run: Run, history: History) -> list[SiloRow]:
    charged, reported = accounts(history), told(run)
    return [
        _row(name, charged.get(name, _EMPTY), reported.get(name, _EMPTY.charged), run)
        for name in in_order(run, {*charged, *reported})
    ]


def _row(name: str, account: ChargeCounts, reported: Charged | None, run: Run) -> SiloRow:
    """More events on either side make a difference; more in the history weighs more."""
    if not run.section("privacy"):
        return SiloRow(name, account, "not compared")
    if reported is None:
        return SiloRow(name, account, "kept", epsilon=_headline(run, name))
    if account.charged.events == reported.events:
        return SiloRow(name, account, "equal")
    rounds = {number for _, number in account.charged.rounds ^ reported.rounds}
    # Counters subtract to what is above zero: events of which the history has more.
    less = bool(reported.events - account.charged.events)
    where = in_rounds(rounds, most=4) if rounds else ""
    return SiloRow(name, account, "less" if less else "more", where)


def _with_epsilon(run: Run, books: LedgerReading, row: SiloRow) -> SiloRow:
    delta = run.guarantee.delta if run.guarantee else None
    differs = row.comparison in ("more", "less")
    return replace(row, epsilon=books.spent(row.silo, delta=delta)) if differs else row


def _headline(run: Run, silo: str) -> float | None:
    return run.guarantee.per_silo.get(silo) if run.guarantee else None


def _totals(history: History, rows: Sequence[SiloRow]) -> Totals:
    parts = ("reserved", "committed", "standing", "evaluations", "refusals")
    sums = {part: sum(getattr(row.account, part) for row in rows) for part in parts}
    last = history.last.hash[:12] if history.last else ""
    return Totals(entries=len(history.entries), last=last, **sums)


def _sound(books: LedgerReading) -> str:
    if books.history is None:
        return "It cannot be read, so nothing can be said about what it holds."
    if books.findings:
        return "It is not what was written: see the top of this page."
    if books.signatures_checked:
        return "Every hash and every signature is in place, and its end was not cut off."
    return (
        f"Every hash is in place. Signatures and the end were not checked: with more than "
        f"{MOST_SIGNATURES:,} entries that takes long. “privet ledger verify” does it."
    )


def _agreement(rows: Sequence[SiloRow]) -> str:
    """One sentence for each kind of silo that there is."""
    kinds = {kind: [row for row in rows if row.comparison == kind] for kind in _SAYINGS}
    return " ".join(
        _SAYINGS[kind].format(who=_who(found, rows)) for kind, found in kinds.items() if found
    )


_SAYINGS: dict[Comparison, str] = {
    "less": (
        "For {who} it charges less than the history reports, which no ledger that is whole can do."
    ),
    "more": (
        "For {who} it charges more than the history reports: a round that was interrupted or "
        "failed stays charged in full, since records may have been used."
    ),
    "equal": (
        "For {who} it charges exactly the events that the history reports, so both give the same "
        "epsilon."
    ),
    "kept": (
        "For {who} the history has nothing to compare: the account stays in the silo, and the "
        "epsilon on this page is the ledger’s."
    ),
    "not compared": (
        "Training without differential privacy is charged as a loss without bound; the history "
        "keeps no account of it."
    ),
}


def _who(found: Sequence[SiloRow], rows: Sequence[SiloRow]) -> str:
    if len(found) == len(rows):
        return "every silo"
    few = len(found) <= 3 < len(rows)
    return listed([row.silo for row in found]) if few else f"{len(found):,} of {len(rows):,} silos"


def _alarms(books: LedgerReading, rows: Sequence[SiloRow]) -> list[str]:
    alarms = []
    if books.findings:
        shown = "; ".join(books.findings[:FINDINGS])
        more = len(books.findings) - FINDINGS
        alarms.append(
            "The ledger of this run is damaged or was changed, so do not take from it what was "
            f"spent: {shown}" + (f"; and {counted(more, 'finding')} more." if more > 0 else ".")
        )
    short = [row.silo for row in rows if row.comparison == "less"]
    if short:
        alarms.append(
            f"The history reports uses of records that the ledger never charged ({listed(short)}): "
            "one of the two is not whole."
        )
    return alarms


def _beyond(run: Run, rows: Sequence[SiloRow]) -> str | None:
    headline = run.guarantee.max if run.guarantee else None
    known = [row for row in rows if row.epsilon is not None and row.comparison != "kept"]
    worst = max(known, key=lambda row: row.epsilon or 0.0, default=None)
    # The accountant's own error moves epsilon by about so much.
    if worst is None or headline is None or (worst.epsilon or 0.0) <= headline * (1 + 1e-6):
        return None
    return (
        f"By the ledger, {worst.silo} has spent epsilon {bound(worst.epsilon)}, more than the "
        f"{bound(headline)} of the rounds that were finished: what was interrupted or failed is "
        "charged as well."
    )
