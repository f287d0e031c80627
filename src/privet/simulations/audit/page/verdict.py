"""The verdict in plain words: how many claims hold, and what it means that some do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from privet.privacy.audit.claims import Claim
from privet.simulations.audit.report import Report
from privet.simulations.pages.formatting import counted, listed

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
    "record.checkable": "a check could not be made",
    "sum.events": "the mechanism that was reported is not the one that was charged",
    "sum.recomputed": "the epsilon that was claimed is not what the ledger's entries give",
    "sum.accountants": "the accountants do not agree, or were quoted wrongly",
    "budget.target": "training spent more than the experiment's epsilon",
    "budget.every-moment": "more was spent than a data holder's budget allows",
    "policy.respected": "records were used in a way that their holder's policy forbids",
    "mechanism.settings": "noise or sampling are not what settings and records give",
    "mechanism.canaries": "canaries are of another mechanism than the one that was charged",
    "mechanism.conformance": "what ran does not follow the law of the mechanism that was claimed",
    "mechanism.lower-bound": "an attack shows epsilon to be above the claim",
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
    undecided = sum(claim.verdict == "UNKNOWN" for claim in report.claims)
    if failed:
        return f"What was claimed does not hold: {_failures(failed)}."
    if not report.claims:
        return "There was nothing to hold against what was given."
    if undecided:
        return (
            f"Every claim that could be decided holds; {counted(undecided, 'claim')} could not be, "
            "because something that the auditor needs was not given."
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
