"""Claims as a reader goes through them: by family, what fails in full, what passes together.

What left the silos, by kind of message and not by silo.

The verdict in plain words: how many claims hold, and what it means that some do not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from privet.audits.claims import Claim, Verdict, undecided
from privet.audits.leaks import ReleasedField
from privet.audits.report import Report
from privet.charts.formatting import counted, listed

FEW = 3
"""Different evidence for one claim that is written out; the rest is folded."""

_FAMILIES = {
    "record": "The record",
    "sum": "The sums",
    "budget": "The budgets",
    "policy": "The policy",
    "mechanism": "The mechanism",
    "encryption": "Encryption",
    "leaks": "What left the silos",
}
_ORDER: tuple[Verdict, ...] = ("FAIL", "UNKNOWN", "PASS")


@dataclass(frozen=True)
class ClaimText:
    """Subjects of which a claim says the same on the same evidence."""

    subjects: tuple[str, ...]
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class ClaimGroup:
    """Claims with one id and one verdict; a claim that fails is a group of its own."""

    id: str
    verdict: Verdict
    statement: str
    """What differs between the claims' own statements is left out."""
    said: tuple[ClaimText, ...]
    """What most subjects share comes first."""

    @property
    def size(self) -> int:
        """How many claims these are."""
        return sum(len(each.subjects) for each in self.said)


@dataclass(frozen=True)
class Family:
    """The claims that look at one thing."""

    name: str
    title: str
    groups: tuple[ClaimGroup, ...]

    def count(self, verdict: Verdict) -> int:
        """How many claims have this verdict."""
        return sum(group.size for group in self.groups if group.verdict == verdict)


def families(claims: Sequence[Claim]) -> tuple[Family, ...]:
    """Every claim once, in families; those that nobody foresaw come last, by their own name."""
    names = dict.fromkeys([*_FAMILIES, *(_family(claim) for claim in claims)])
    found = {name: [claim for claim in claims if _family(claim) == name] for name in names}
    return tuple(
        Family(name, _FAMILIES.get(name, name), tuple(_groups(own)))
        for name, own in found.items()
        if own
    )


def _family(claim: Claim) -> str:
    return claim.id.partition(".")[0]


def _groups(claims: Sequence[Claim]) -> Iterator[ClaimGroup]:
    together: dict[tuple[object, ...], list[Claim]] = {}
    for number, claim in enumerate(claims):
        # Every failure is a case of its own to its reader; what passes is one line however often.
        alone = number if claim.verdict == "FAIL" else None
        together.setdefault((claim.id, claim.verdict, alone), []).append(claim)
    for verdict in _ORDER:
        for (id_, found, _), same in together.items():
            if found == verdict:
                statement = _shared([claim.statement for claim in same])
                yield ClaimGroup(str(id_), verdict, statement, _by_evidence(same))


def _by_evidence(claims: Sequence[Claim]) -> tuple[ClaimText, ...]:
    found: dict[tuple[str, ...], list[str]] = {}
    for claim in claims:
        found.setdefault(claim.evidence, []).append(claim.subject)
    said = [ClaimText(tuple(subjects), evidence) for evidence, subjects in found.items()]
    return tuple(sorted(said, key=lambda each: -len(each.subjects)))


def _shared(statements: Sequence[str]) -> str:
    """
    >>> _shared(["at least 3 of 4", "at least 5 of 4"]), _shared(["all", "nothing at all"])
    ('at least … of 4', 'all')
    """
    rows = [statement.split() for statement in dict.fromkeys(statements)]
    # Words can be compared place by place only where there are as many of them.
    if len(rows) == 1 or len({len(row) for row in rows}) > 1:
        return statements[0]
    return " ".join(
        word if all(word == other for other in others) else "…"
        for word, *others in zip(*rows, strict=True)
    )


@dataclass(frozen=True)
class Kind:
    """A field of messages, with everything that is the same of all silos."""

    occasion: str
    field: str
    protection: str
    protected: bool
    silos: int
    """Of all runs together: a silo of two runs counts twice."""
    messages: int

    @property
    def model(self) -> bool:
        """Whether it is the model's update itself, and not what came beside it."""
        return self.field.startswith(("update.", "sealed-update."))


def kinds(leaks: Sequence[ReleasedField]) -> tuple[Kind, ...]:
    """What has no protection first, the model's update last."""
    found: dict[tuple[str, str, str, bool], list[ReleasedField]] = {}
    for left in leaks:
        place = left.occasion, left.field, left.protection, left.protected
        found.setdefault(place, []).append(left)
    listed = [
        Kind(
            *place,
            len({(left.subject, left.silo) for left in same}),
            sum(left.messages for left in same),
        )
        for place, same in found.items()
    ]
    return tuple(sorted(listed, key=lambda kind: (kind.model, kind.protected)))


FAILURES = {
    "record.chain": "a ledger was damaged, changed or cut off",
    "record.signer": "a ledger is signed by none of the keys that the auditor has",
    "record.clock": "entries of a ledger have times that cannot be",
    "record.versions": "the software changed within a job",
    "record.once": "one silo's records have more than one budget",
    "record.readable": "a run's files are damaged, or not what privet writes",
    "record.complete": "uses of records are missing, in the ledger or in the history",
    "record.times": "entries do not belong to the rounds that they are of",
    "record.summary": "a summary does not follow from its history",
    "record.files": "files are not those that a ledger named when the run ended",
    "record.checkable": "a check could not be made",
    "sum.events": "the mechanism that was reported is not the one that was charged",
    "sum.recomputed": "the epsilon that was claimed is not what the ledger's entries give",
    "sum.accountants": "the accountants do not agree, or were quoted wrongly",
    "budget.target": "training spent more than the experiment's epsilon",
    "budget.every-moment": "more was spent than a data holder's budget allows",
    "policy.respected": "records were used in a way that their holder's policy forbids",
    "mechanism.settings": "noise or sampling are not what settings and records give",
    "mechanism.sound": "DP-SGD's claim does not hold for this model and this loss",
    "mechanism.canaries": "canaries are of another mechanism than the one that was charged",
    "mechanism.conformance": "canaries do not follow the law of the mechanism that was claimed",
    "mechanism.steps": "training moved weights otherwise than its noisy gradients say, or these "
    "have too little noise",
    "mechanism.dry-run": "in the run, steps on made-up examples were not clipped gradients and "
    "noise of the claimed law",
    "mechanism.evaluation": "what evaluation released has not the claimed noise",
    "mechanism.code": "the installed code does not take the steps that are claimed",
    "mechanism.across": "two runs have the same noise",
    "mechanism.lower-bound": "an attack shows epsilon to be above the claim",
    "mechanism.deep-run": "the experiment, run again here, fails claims about what runs",
    "mechanism.deep-updates": "an attack on a silo's updates shows epsilon to be above the claim",
    "mechanism.deep-model": "an attack on models trained alike shows epsilon to be above the claim",
    "encryption.sums": "an encrypted sum was of other silos than the record names, or of too few",
    "leaks.listed": "something left the silos that was not counted, or that nobody knows",
}
"""What FAIL means, by claim."""

_MOST = 4


def in_one_sentence(report: Report) -> str:
    """What the verdict means here; of FAIL, which claims and of what."""
    failed = [claim for claim in report.claims if claim.verdict == "FAIL"]
    open_ = [claim for claim in report.claims if claim.verdict == "UNKNOWN"]
    if failed:
        return f"What was claimed does not hold: {_failures(failed)}."
    if not report.claims:
        return "There was nothing to hold against what was given."
    if report.verdict == "UNANCHORED":
        return (
            "What is signed adds up, but by keys that nobody vouched for: whoever made these files "
            "may have made the keys. Get the public keys of the project or of its silos from those "
            "who run them, and audit again with --anchor."
        )
    if leaning := undecided(open_):
        named = listed(list(dict.fromkeys(claim.id for claim in leaning)), most=_MOST)
        missing = (
            "Not all that epsilon rests on was given. " if report.verdict == "INCOMPLETE" else ""
        )
        return (
            f"{missing}Every claim that could be decided holds; {counted(len(open_), 'claim')} "
            f"could not be. The verdict leans on {named}: {leaning[0].evidence[0]}."
        )
    if open_:
        return (
            f"Every claim that could be decided holds; {counted(len(open_), 'claim')} could not "
            "be, and nothing that was promised rests on it."
        )
    return "Every claim was decided, and every one holds."


def _failures(failed: Sequence[Claim]) -> str:
    """By claim, the clearest words first; of one that nobody foresaw, its own."""
    subjects: dict[str, list[str]] = {}
    for claim in failed:
        subjects.setdefault(claim.id, []).append(claim.subject)
    said = [
        f"{FAILURES.get(id_, 'a claim fails')} ({id_} of {listed(found, most=2)})"
        for id_, found in subjects.items()
    ]
    more = len(said) - _MOST
    return "; ".join(said[:_MOST]) + (f"; and {counted(more, 'further claim')}" if more > 0 else "")


def counts(report: Report) -> dict[str, int]:
    """How many claims have each verdict."""
    found = Counter[str](claim.verdict for claim in report.claims)
    return {verdict: found[verdict] for verdict in ("PASS", "FAIL", "UNKNOWN")}
