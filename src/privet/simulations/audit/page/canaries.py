"""A run's canaries once more, silo by silo: what an attack shows, and every test of the law."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from privet.errors import PrivacyError
from privet.privacy.audit.conformance import Conformance, conformance
from privet.privacy.audit.one_run import one_run_bound
from privet.privacy.audit.scores import Scored, score
from privet.privacy.audit.sightings import Sighting
from privet.privacy.audit.two_sided import roc
from privet.simulations.audit.page.drawing import Picture
from privet.simulations.audit.page.facts import Files
from privet.simulations.audit.page.figures import Bound, bounds_picture, tests_picture
from privet.simulations.audit.page.roc import Roc
from privet.simulations.audit.report import Report

MOST_RUNS = 3
"""Runs whose canaries are drawn; the claims speak of all."""

_ALL = "all silos together"


@dataclass(frozen=True)
class Seen:
    """What the canaries of one run show to who sees every step inside the silos."""

    subject: str
    conformance: Conformance
    pictures: tuple[Picture, ...]
    """Bounds, and tests."""
    roc: Roc


def canaries(files: Files) -> tuple[Seen, ...]:
    """Of the first runs that have canaries, those that fail a claim about them before others."""
    found = (_seen(files.report, subject, files.sightings(subject)) for subject in _order(files))
    return tuple(each for each in found if each)


def runs_with_canaries(report: Report) -> list[str]:
    """The runs that a claim about canaries speaks of."""
    return list(dict.fromkeys(c.subject for c in report.claims if c.id == "mechanism.canaries"))


def _order(files: Files) -> list[str]:
    failed = {
        claim.subject
        for claim in files.report.claims
        if claim.verdict == "FAIL" and claim.id.startswith("mechanism.")
    }
    named = runs_with_canaries(files.report)
    return sorted(named, key=lambda subject: subject not in failed)[:MOST_RUNS]


def _seen(report: Report, subject: str, sightings: Sequence[Sighting]) -> Seen | None:
    sums = {s.silo: s for s in report.sums if s.subject == subject and s.job is not None}
    claims = {silo: each.epsilon for silo, each in sums.items()}
    if not sightings or not claims:
        return None
    delta = next(iter(sums.values())).delta
    try:
        found, scored = conformance(sightings), score(sightings, view="steps")
        bounds = tuple(_bounds(sightings, scored, claims, delta))
    except PrivacyError:
        return None
    false, true = roc(scored.scores[scored.inserted], scored.scores[~scored.inserted])
    members = int(scored.inserted.sum())
    largest, others = max(claims.values()), len(scored.inserted) - members
    drawn = Roc(f"Canaries of {subject}", false, true, members, others, largest, delta)
    pictures = (bounds_picture(bounds), tests_picture(found))
    return Seen(subject, found, pictures, drawn)


def _bounds(
    sightings: Sequence[Sighting], scored: Scored, claims: dict[str, float], delta: float
) -> Iterator[Bound]:
    for silo in dict.fromkeys(each.silo for each in sightings):
        own = score([each for each in sightings if each.silo == silo], view="steps")
        if silo in claims:
            yield _bound(silo, own, claims[silo], delta)
    yield _bound(_ALL, scored, max(claims.values()), delta)


def _bound(name: str, scored: Scored, claim: float, delta: float) -> Bound:
    found = one_run_bound(scored.scores, scored.inserted, delta=delta)
    return Bound(name, claim, found.epsilon, found.correct, found.guesses, found.canaries)
