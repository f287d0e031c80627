"""What each silo's records were charged for: by the ledger, and by the history."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from privet.privacy.ledger import Charge, Entry, History
from privet.simulations.report.run import Run

_REFUSED = "refused: "


@dataclass(frozen=True)
class Charged:
    """Events with their numbers, and the (use, round) pairs that they belong to."""

    events: Counter[str]
    rounds: frozenset[tuple[str, int]]


@dataclass(frozen=True)
class Account:
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
    def of(cls, charges: Iterable[Charge], *, refusals: int = 0) -> Account:
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


def accounts(history: History) -> dict[str, Account]:
    """The account of each silo, by the ledger."""
    charges: dict[str, list[Charge]] = defaultdict(list)
    for charge in history.charges.values():
        charges[charge.reserve.dataset or ""].append(charge)
    refusals = Counter(entry.dataset for entry in history.entries if _is_refusal(entry))
    names = {*history.datasets, *charges, *(name for name in refusals if name)}
    return {name: Account.of(charges[name], refusals=refusals[name]) for name in names}


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
            yield "training", entry.number, silo, event
        for silo, event in (entry.measured.events if entry.measured else {}).items():
            yield "evaluation", entry.number, silo, event


def _is_refusal(entry: Entry) -> bool:
    if entry.kind != "note" or _REFUSED not in (entry.detail or ""):
        return False
    try:
        return str(json.loads(entry.detail or "").get("text", "")).startswith(_REFUSED)
    except (ValueError, AttributeError, RecursionError):
        return False
