"""Claims, each with its verdict and what it rests on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["PASS", "FAIL", "UNKNOWN"]
Outcome = Literal["PASS", "UNANCHORED", "INCOMPLETE", "FAIL"]
"""Of a whole audit: see `outcome`."""

EXIT_CODES: dict[Outcome, int] = {"PASS": 0, "FAIL": 1, "INCOMPLETE": 3, "UNANCHORED": 4}
"""Of the command; 2 is that of a call that could not be understood."""

_EPSILON_RESTS_ON = frozenset(
    {
        "record.readable",
        "record.chain",
        "record.once",
        "record.complete",
        "record.times",
        "record.summary",
        "sum.events",
        "sum.recomputed",
        "sum.accountants",
        "budget.target",
        "mechanism.settings",
        "mechanism.sound",
    }
)
"""Arithmetic over what was signed. Other claims are about budgets and uses, or statistics over what
was looked at of a mechanism: where they are UNKNOWN, epsilon is no other."""
SIGNER = "record.signer"

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
    evidence = _shortened([printable(line) for line in (*found, *notes)])
    return Claim(id_, printable(subject), statement, "FAIL" if found else "PASS", evidence)


def unknown(id_: str, subject: str, statement: str, why: str, *, decisive: bool = True) -> Claim:
    """A claim that what was looked at cannot decide."""
    return Claim(id_, printable(subject), statement, "UNKNOWN", (printable(why),), decisive)


def printable(text: str) -> str:
    r"""A text from an audited file without what a terminal would obey.

    >>> printable("silo\x1b[2J")
    'silo\\x1b[2J'
    """
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def undecided(claims: Iterable[Claim]) -> list[Claim]:
    """The claims that are UNKNOWN and that the verdict leans on."""
    return [claim for claim in claims if claim.verdict == "UNKNOWN" and claim.decisive]


def outcome(claims: Iterable[Claim]) -> Outcome:
    """The verdict of the whole.

    FAIL when one claim fails. Else INCOMPLETE while a claim that epsilon rests on is UNKNOWN, such
    as for want of a silo's ledger. Else UNANCHORED while a ledger's key is one that nobody vouched
    for, so that whoever made the files may have made it. PASS is left for what was all decided.
    """
    told = list(claims)
    if any(claim.verdict == "FAIL" for claim in told):
        return "FAIL"
    open_ = {claim.id for claim in undecided(told)}
    if open_ & _EPSILON_RESTS_ON:
        return "INCOMPLETE"
    # A run of which no ledger was given has no signer to ask for.
    if SIGNER in open_ or not any(claim.id == SIGNER for claim in told):
        return "UNANCHORED"
    return "PASS"


def headline(claims: Iterable[Claim]) -> str:
    """The verdict of the whole, and what it leans on that could not be decided, with a reason."""
    told = list(claims)
    verdict = outcome(told)
    open_ = undecided(told)
    if verdict == "FAIL" or not open_:
        return verdict
    # What made the verdict comes first.
    decided_by = {"INCOMPLETE": _EPSILON_RESTS_ON, "UNANCHORED": {SIGNER}}.get(verdict, frozenset())
    open_.sort(key=lambda claim: claim.id not in decided_by)
    named = list(dict.fromkeys(claim.id for claim in open_))
    more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    return (
        f"{verdict}: of what could be decided nothing fails; UNKNOWN: "
        f"{', '.join(named[:_NAMED])}{more} ({open_[0].evidence[0]})"
    )


def _shortened(lines: list[str]) -> tuple[str, ...]:
    if len(lines) <= MOST_EVIDENCE:
        return tuple(lines)
    return (*lines[: MOST_EVIDENCE - 1], f"and {len(lines) - MOST_EVIDENCE + 1:,} more")
