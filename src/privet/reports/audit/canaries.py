"""A run's canaries once more, silo by silo: what an attack shows, and every test of the law.

The curves of a deep audit, as the page draws them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from privet.audits.deep.record import Deep
from privet.audits.laws import Conformance
from privet.audits.lower_bounds import Scored, one_run_bound, roc, score
from privet.audits.mechanism import conformance
from privet.audits.report import Report
from privet.charts.chart import Chart
from privet.errors import PrivacyError
from privet.privacy.mechanisms.canaries import CanaryObservation
from privet.reports.audit.figures import ClaimedBound, Roc, bounds_chart, tests_chart
from privet.reports.audit.opening import Files

MOST_RUNS = 3
"""Runs whose canaries are drawn; the claims speak of all."""

_ALL = "all silos together"


@dataclass(frozen=True)
class CanaryAttack:
    """What the canaries of one run show to who sees every step inside the silos."""

    subject: str
    conformance: Conformance
    charts: tuple[Chart, ...]
    """Bounds, and tests."""
    roc: Roc


def canaries(files: Files) -> tuple[CanaryAttack, ...]:
    """Of the first runs that have canaries, those that fail a claim about them before others."""
    found = (_seen(files.report, subject, files.sightings(subject)) for subject in _order(files))
    return tuple(each for each in found if each)


def runs_with_canaries(report: Report) -> list[str]:
    """The runs in which canaries took part."""
    told = [c for c in report.claims if c.id == "mechanism.canaries" and c.verdict != "UNKNOWN"]
    return list(dict.fromkeys(claim.subject for claim in told))


def _order(files: Files) -> list[str]:
    failed = {
        claim.subject
        for claim in files.report.claims
        if claim.verdict == "FAIL" and claim.id.startswith("mechanism.")
    }
    named = runs_with_canaries(files.report)
    # The sort is stable: within both kinds the report's own order stays.
    return sorted(named, key=lambda subject: subject not in failed)[:MOST_RUNS]


def _seen(
    report: Report, subject: str, sightings: Sequence[CanaryObservation]
) -> CanaryAttack | None:
    sums = {s.silo: s for s in report.sums if s.subject == subject and s.job is not None}
    claims = {silo: each.epsilon for silo, each in sums.items()}
    if not sightings or not claims:
        return None
    delta = next(iter(sums.values())).delta
    try:
        found, scored = conformance(sightings), score(sightings, view="steps")
        bounds = tuple(_bounds(sightings, scored, claims, delta))
    # Of a run whose canaries make no test, the claims say so; a page without its charts is still
    # one.
    except PrivacyError:
        return None
    false, true = roc(scored.scores[scored.inserted], scored.scores[~scored.inserted])
    members = int(scored.inserted.sum())
    largest, others = max(claims.values()), len(scored.inserted) - members
    drawn = Roc(f"Canaries of {subject}", false, true, members, others, largest, delta)
    charts = (bounds_chart(bounds), tests_chart(found))
    return CanaryAttack(subject, found, charts, drawn)


def _bounds(
    sightings: Sequence[CanaryObservation], scored: Scored, claims: dict[str, float], delta: float
) -> Iterator[ClaimedBound]:
    for silo in dict.fromkeys(each.silo for each in sightings):
        own = score([each for each in sightings if each.silo == silo], view="steps")
        if silo in claims:
            yield _bound(silo, own, claims[silo], delta)
    # An attack that shows more than the largest claim refutes it, whosever canaries it guessed.
    yield _bound(_ALL, scored, max(claims.values()), delta)


def _bound(name: str, scored: Scored, claim: float, delta: float) -> ClaimedBound:
    found = one_run_bound(scored.scores, scored.inserted, delta=delta)
    return ClaimedBound(name, claim, found.epsilon, found.correct, found.guesses, found.canaries)


_OBSERVERS = {"updates": "the silo's updates", "model": "the last model alone"}


def rocs_of_deep(report: Report) -> Iterator[Roc]:
    """Of each run and observer, the attacks that its bounds are of."""
    for found in report.deep:
        yield from _of_run(found)


def _of_run(found: Deep) -> Iterator[Roc]:
    bounds = {(each.observer, each.canary, each.score): each for each in found.bounds}
    for curve in found.curves:
        bound = bounds.get((curve.observer, curve.canary, curve.score))
        if bound is None:
            continue
        yield Roc(
            f"{found.subject}, {found.silo}: {curve.score} of the {curve.canary} record in "
            f"{_OBSERVERS[curve.observer]}",
            curve.false_positive_rates,
            curve.true_positive_rates,
            members=bound.inside,
            others=bound.out,
            epsilon=math.inf if found.claimed is None else found.claimed,
            delta=found.delta,
            charged=(found.allowed.false_positive_rates, found.allowed.true_positive_rates),
        )
