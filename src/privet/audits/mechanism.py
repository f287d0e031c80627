"""What was seen of a run's canaries, as claims about its mechanism.

What a simulation's canaries show: did the mechanism run that was claimed and charged?
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from privet.audits.claims import Claim, judged, unknown
from privet.audits.conformance import Check, conformance
from privet.audits.evidence import Evidence
from privet.audits.one_run import OneRunBound, View, one_run_bound, score
from privet.audits.sums import parts_of_charges
from privet.errors import PrivacyError
from privet.privacy.mechanisms.canaries import CANARIES, CanaryObservation, read_observations

_OBSERVERS: dict[View, str] = {
    "steps": "who sees every step inside the silos",
    "updates": "who gets the silos' updates",
    "model": "who gets what all rounds have done to the model",
}


def mechanism_claims(
    sightings: Sequence[CanaryObservation], *, subject: str, epsilon: float, delta: float
) -> list[Claim]:
    """`mechanism.conformance` and `mechanism.lower-bound` of the run `subject`.

    `epsilon` is the largest that the run claims for a silo, at `delta`. The second claim is judged
    by the observer who sees most; what weaker ones can tell is noted. Without canaries, or where no
    noise is claimed, both are UNKNOWN.
    """
    return [_conforms(sightings, subject), _bounded(sightings, subject, epsilon, delta)]


def _conforms(sightings: Sequence[CanaryObservation], subject: str) -> Claim:
    id_, statement = "mechanism.conformance", "The mechanism that ran is the one that was claimed."
    try:
        found = conformance(sightings)
    except PrivacyError as reason:
        return unknown(id_, subject, statement, str(reason))
    note = (
        f"{len(found.checks)} tests of {found.values:,} numbers from {found.steps:,} steps, "
        f"p = {found.p_value:.2g} together; a correct mechanism fails with probability "
        f"{found.level:g}"
    )
    faults = (_fault(check) for check in found.failed)
    return judged(id_, subject, statement, faults=faults, notes=[note])


def _fault(check: Check) -> str:
    return (
        f"{check.finds} ({check.name}): {check.seen:.4g} where {check.expected:.4g} was expected, "
        f"p = {check.p_value:.2g}"
    )


def _bounded(
    sightings: Sequence[CanaryObservation], subject: str, epsilon: float, delta: float
) -> Claim:
    id_, statement = "mechanism.lower-bound", f"No attack shows epsilon to be above {epsilon:.4g}."
    if not sightings or any(each.plan.noise_multiplier == 0 for each in sightings):
        return unknown(id_, subject, statement, "no canary was seen of a mechanism with noise")
    try:
        bounds = {view: _bound(sightings, view, delta) for view in _OBSERVERS}
    except PrivacyError as reason:
        return unknown(id_, subject, statement, str(reason))
    said = [_said(bound, _OBSERVERS[view]) for view, bound in bounds.items()]
    faults = said[:1] if bounds["steps"].refutes(epsilon) else []
    return judged(id_, subject, statement, faults=faults, notes=said[len(faults) :])


def _bound(sightings: Sequence[CanaryObservation], view: View, delta: float) -> OneRunBound:
    found = score(sightings, view=view)
    return one_run_bound(found.scores, found.inserted, delta=delta)


def _said(bound: OneRunBound, observer: str) -> str:
    return (
        f"epsilon is at least {bound.epsilon:.2f} with {bound.confidence:.0%} confidence, at delta "
        f"{bound.delta:g}, for {observer}: {bound.correct} of {bound.guesses} guesses right, "
        f"{bound.canaries:,} canaries"
    )


def claims(run: Evidence) -> Iterator[Claim]:
    """None for a run without canaries."""
    seen = read_observations(run.folder / CANARIES)
    if not seen:
        return
    statement = "Canaries were seen of the mechanism that the ledger charges."
    yield judged("mechanism.canaries", run.subject, statement, faults=_elsewhere(run, seen))
    told, delta = run.lines[-1].epsilon, run.delta
    if told is not None and told.max is not None and delta is not None:
        yield from mechanism_claims(seen, subject=run.subject, epsilon=told.max, delta=delta)


def _elsewhere(run: Evidence, seen: Sequence[CanaryObservation]) -> Iterator[str]:
    for each in seen:
        bill = run.bill(each.silo)
        if bill is None:
            continue
        charged = parts_of_charges(bill.of("training", each.round))
        ran = (each.plan.noise_multiplier, each.plan.sampling_rate, len(each.gradients))
        if ran not in [(part.noise_multiplier, part.sampling_rate, part.steps) for part in charged]:
            yield (
                f"{each.silo}, round {each.round}: noise multiplier {ran[0]:g}, sampling rate "
                f"{ran[1]:g}, {ran[2]} steps are not what the ledger charges"
            )
