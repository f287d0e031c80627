"""Epsilon as tables: what each silo spent and has left, at every delta, for several records.

Three accountants of the same entries, side by side.

The programs that give each epsilon by hand.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from privet.audits.report import Person, Persons, Report, Sum
from privet.audits.spent import TIMES
from privet.charts.formatting import NOTHING, bound
from privet.errors import PrivetError
from privet.privacy.accounting.events import Segment
from privet.privacy.ledger.costs import epsilon_of
from privet.privacy.policy import Policy
from privet.reports.audit.opening import AuditedRun, Files


@dataclass(frozen=True)
class Balance:
    """What one data set was charged, beside what it may be."""

    silo: str
    of: str
    """The run, or the ledger."""
    records: int | None
    target: float | None
    """Of training, by the experiment."""
    spent: float
    delta: float
    budget: float | None
    """Over the life of the data set, by its holder's policy; at `budget_delta`."""
    budget_delta: float | None
    left: float | None
    """Of the budget; None where it is not known what was spent over that life."""


def balances(files: Files) -> tuple[Balance, ...]:
    """Every sum of the report, those that spent most first."""
    return tuple(_balance(each, files) for each in dearest(files.report.sums))


def dearest(sums: Sequence[Sum]) -> list[Sum]:
    """Those that spent most first."""
    return sorted(sums, key=lambda each: -each.epsilon)


def _balance(found: Sum, files: Files) -> Balance:
    run = files.runs.get(found.subject)
    policy = run.policy if run else files.policy
    budget, delta = _budget(policy, found.silo)
    life = _over_life(found, run, files.report)
    spent = _at(life, delta) if life and delta else None
    return Balance(
        found.silo,
        found.subject,
        run.records.get(found.silo) if run else None,
        run.target if run else None,
        found.epsilon,
        found.delta,
        budget,
        delta,
        None if spent is None or budget is None else max(0.0, budget - spent),
    )


def _budget(policy: Policy | None, dataset: str) -> tuple[float | None, float | None]:
    rules = policy.rules(dataset) if policy else None
    return (rules.budget.epsilon, rules.budget.delta) if rules else (None, None)


def _over_life(found: Sum, run: AuditedRun | None, report: Report) -> Sum | None:
    """Everything that the data set was ever charged; a simulation's ledger knows one job."""
    if found.job is None or (run is not None and run.job is None):
        return found
    whole = [each for each in report.sums if each.job is None and each.ledger == found.ledger]
    # With two ledgers of one silo it is not known what was spent: no remainder is better than a
    # wrong one.
    return whole[0] if len(whole) == 1 else None


def _at(found: Sum, delta: float) -> float | None:
    # What the report says already need not be composed again.
    if math.isclose(delta, found.delta):
        return found.epsilon
    parts = [Segment(*segment) for segment in found.segments]
    try:
        return epsilon_of(parts, delta=delta)
    except (PrivetError, ArithmeticError, ValueError):  # a report can hold any number
        return None


def deltas(report: Report) -> tuple[str, ...]:
    """The deltas that any sum has an epsilon at, the largest first."""
    known = {delta for each in report.sums for delta in each.by_delta}
    return tuple(sorted(known, key=number_of, reverse=True))


def number_of(text: str) -> float:
    """What a text says; 0 where it is no number."""
    try:
        return float(text)
    except ValueError:
        return 0.0


def person_cells(persons: Persons) -> tuple[str, ...]:
    """For TIMES silos, then for TIMES records of one silo; "–" where there are not so many."""
    return tuple(
        _somebody(each, times)
        for each in (persons.in_silos, persons.in_one_silo)
        for times in TIMES
    )


def _somebody(found: Sequence[Person], times: int) -> str:
    same = [each for each in found if each.times == times]
    return bound(same[0].epsilon) if same else NOTHING


# The claim's own line of evidence: a report has these figures nowhere else.
_FIGURES = re.compile(
    r"(?P<silo>.*): PLD (?P<pld>[^ ,;]+)(, RDP (?P<rdp>[^ ,;]+))?(, PRV (?P<prv>[^ ,;]+))?"
    r"(; (?P<note>.*))?",
    re.DOTALL,
)


@dataclass(frozen=True)
class Accountants:
    """What the three say of one silo's entries, as its claim quotes them."""

    subject: str
    silo: str
    pld: str
    rdp: str | None
    prv: str | None
    note: str | None


def accountants(report: Report) -> tuple[Accountants, ...]:
    """From the evidence of `sum.accountants`, the largest first; faults stand among the claims."""
    lines = [
        (claim.subject, found)
        for claim in report.claims
        if claim.id == "sum.accountants"
        for line in claim.evidence
        if (found := _FIGURES.fullmatch(line))
    ]
    told = [Accountants(subject, **found.groupdict()) for subject, found in lines]
    return tuple(sorted(told, key=lambda each: -number_of(each.pld)))


@dataclass(frozen=True)
class Recipe:
    """A program that prints an epsilon, and the sums that it is of."""

    program: str
    epsilon: float
    of: tuple[str, ...]


def recipes(report: Report) -> tuple[Recipe, ...]:
    """The programs of all sums, equal ones once, the largest epsilon first."""
    found: dict[str, list[Sum]] = {}
    for each in dearest(report.sums):
        found.setdefault(each.by_hand, []).append(each)
    return tuple(
        Recipe(program, same[0].epsilon, tuple(f"{s.silo} ({s.subject})" for s in same))
        for program, same in found.items()
    )
