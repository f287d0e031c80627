"""The programs that give each epsilon by hand."""

from __future__ import annotations

from dataclasses import dataclass

from privet.simulations.audit.page.spent import dearest
from privet.simulations.audit.report import Report, Sum


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
