"""Claims as a reader goes through them: by family, what fails in full, what passes together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from privet.privacy.audit.claims import Claim, Verdict

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
class Said:
    """Subjects of which a claim says the same on the same evidence."""

    subjects: tuple[str, ...]
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """Claims with one id and one verdict; a claim that fails is a group of its own."""

    id: str
    verdict: Verdict
    statement: str
    """What differs between the claims' own statements is left out."""
    said: tuple[Said, ...]
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
    groups: tuple[Group, ...]

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


def _groups(claims: Sequence[Claim]) -> Iterator[Group]:
    together: dict[tuple[object, ...], list[Claim]] = {}
    for number, claim in enumerate(claims):
        alone = number if claim.verdict == "FAIL" else None
        together.setdefault((claim.id, claim.verdict, alone), []).append(claim)
    for verdict in _ORDER:
        for (id_, found, _), same in together.items():
            if found == verdict:
                statement = _shared([claim.statement for claim in same])
                yield Group(str(id_), verdict, statement, _by_evidence(same))


def _by_evidence(claims: Sequence[Claim]) -> tuple[Said, ...]:
    found: dict[tuple[str, ...], list[str]] = {}
    for claim in claims:
        found.setdefault(claim.evidence, []).append(claim.subject)
    said = [Said(tuple(subjects), evidence) for evidence, subjects in found.items()]
    return tuple(sorted(said, key=lambda each: -len(each.subjects)))


def _shared(statements: Sequence[str]) -> str:
    """
    >>> _shared(["at least 3 of 4", "at least 5 of 4"]), _shared(["all", "nothing at all"])
    ('at least … of 4', 'all')
    """
    rows = [statement.split() for statement in dict.fromkeys(statements)]
    if len(rows) == 1 or len({len(row) for row in rows}) > 1:
        return statements[0]
    return " ".join(
        word if all(word == other for other in others) else "…"
        for word, *others in zip(*rows, strict=True)
    )
