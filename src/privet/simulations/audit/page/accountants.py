"""Three accountants of the same entries, side by side."""

from __future__ import annotations

import re
from dataclasses import dataclass

from privet.simulations.audit.page.spent import number_of
from privet.simulations.audit.report import Report

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
