"""Claims, each with its verdict and what it rests on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["PASS", "FAIL", "UNKNOWN"]

_NAMED = 4

MOST_EVIDENCE = 20
"""Lines of evidence that a claim keeps; how many more there were stands in the last."""


@dataclass(frozen=True)
class Claim:
    """One thing that is so, is not so, or cannot be told from what was looked at.

    `id` is stable from version to version, such as "record.chain"; with `subject`, a file or a run,
    it names the claim. `statement` is what PASS says. The first line of `evidence` of a claim that
    fails is the first fault.
    """

    id: str
    subject: str
    statement: str
    verdict: Verdict
    evidence: tuple[str, ...] = ()
    decisive: bool = True
    """Whether the verdict of the whole leans on it; not where nothing was promised."""


def judged(
    id_: str, subject: str, statement: str, *, faults: Iterable[str], notes: Iterable[str] = ()
) -> Claim:
    """FAIL with the faults, if there are any, else PASS; the notes come behind them."""
    found = list(faults)
    evidence = _shortened([*found, *notes])
    return Claim(id_, subject, statement, "FAIL" if found else "PASS", evidence)


def unknown(id_: str, subject: str, statement: str, why: str, *, decisive: bool = True) -> Claim:
    """A claim that what was looked at cannot decide."""
    return Claim(id_, subject, statement, "UNKNOWN", (why,), decisive)


def undecided(claims: Iterable[Claim]) -> list[Claim]:
    """The claims that are UNKNOWN and that the verdict leans on."""
    return [claim for claim in claims if claim.verdict == "UNKNOWN" and claim.decisive]


def headline(claims: Iterable[Claim]) -> str:
    """The verdict of the whole, and beside PASS what it leans on and could not be decided."""
    told = list(claims)
    # UNKNOWN does not fail: without every key and every ledger nothing would ever pass.
    if any(claim.verdict == "FAIL" for claim in told):
        return "FAIL"
    open_ = undecided(told)
    named = list(dict.fromkeys(claim.id for claim in open_))
    if not named:
        return "PASS"
    more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    return (
        f"PASS of what could be decided; UNKNOWN: {', '.join(named[:_NAMED])}{more} "
        f"({open_[0].evidence[0]})"
    )


def _shortened(lines: list[str]) -> tuple[str, ...]:
    if len(lines) <= MOST_EVIDENCE:
        return tuple(lines)
    return (*lines[: MOST_EVIDENCE - 1], f"and {len(lines) - MOST_EVIDENCE + 1:,} more")
