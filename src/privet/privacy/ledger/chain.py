"""Is a sequence of entries and signed heads one unbroken chain?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from privet.privacy.ledger.entries import Entry
from privet.privacy.ledger.heads import Head
from privet.privacy.ledger.history import History


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong; `sequence` is the entry, or None for the file as a whole."""

    sequence: int | None
    problem: str

    def __str__(self) -> str:
        return self.problem if self.sequence is None else f"entry {self.sequence}: {self.problem}"


def chain_findings(
    entries: Iterable[Entry], heads: Iterable[Head], public: str
) -> Iterator[Finding]:
    """What is wrong with a chain of entries and its signed heads, and how the two fit together."""
    history = History()
    for entry in entries:
        for problem in history.problems(entry):
            yield Finding(entry.sequence, problem)
        history.add(entry)
    yield from _head_findings(history, list(heads), public)


def _head_findings(history: History, heads: Sequence[Head], public: str) -> Iterator[Finding]:
    hashes = {entry.sequence: entry.hash for entry in history.entries}
    for head in heads:
        if not head.is_signed_by(public):
            yield Finding(head.sequence, "its signature is not that of the silo")
        if hashes.get(head.sequence) != head.hash:
            yield Finding(head.sequence, "the entry that was signed is changed or missing")
    signed = {head.sequence for head in heads}
    for sequence in hashes:
        if sequence not in signed:
            yield Finding(sequence, "it was never signed")
