"""What a deep audit says of a run: a claim for each observer, and the record to draw it from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from privet.audits.claims import Claim, judged, unknown
from privet.audits.deep.attacks import (
    CERTAINTY,
    AttackResult,
    PrivacyProfile,
    attacks_on,
    best_of,
    curve_of,
)
from privet.audits.deep.case import case_of, dearest
from privet.audits.deep.record import FEWEST, Deep, DeepOptions, Observer
from privet.audits.deep.training import Case, Observations, coins, train_many
from privet.audits.evidence import Evidence
from privet.errors import PrivacyError, PrivetError
from privet.privacy.accounting.events import Segment

_OBSERVERS: dict[Observer, str] = {
    "updates": "the silo's updates, as the server gets them,",
    "model": "the last model alone",
}
_SEALED = "nobody got a silo's updates: they were encrypted"


def deep_audit(
    run: Evidence, options: DeepOptions, watch: Callable[[int], None]
) -> tuple[list[Claim], Deep | None]:
    """`mechanism.deep-updates` and `mechanism.deep-model` of a run; `watch` hears of models done.

    UNKNOWN, with the reason, where its training cannot be done again. Raises PrivacyError for
    fewer than FEWEST models.
    """
    if options.models < FEWEST:
        raise PrivacyError(f"{options.models} models are too few to attack: {FEWEST} or more")
    try:
        silo, claimed = dearest(run)
        case = case_of(run, silo)
        inserted = coins(options.models, len(case.canaries), seed=options.seed)
        seen = train_many(case, inserted, seed=options.seed, watch=watch)
        return _judged(run, silo, claimed, case, seen, options)
    except Exception as error:  # the task is somebody's own code, and so are its data
        told = str(error) if isinstance(error, PrivetError) else f"{type(error).__name__}: {error}"
        statement = "No attack on models that were trained alike shows epsilon to be larger."
        ids = (f"mechanism.deep-{observer}" for observer in _OBSERVERS)
        return [unknown(id_, run.subject, statement, told) for id_ in ids], None


def _judged(
    run: Evidence, silo: str, claimed: float, case: Case, seen: Observations, options: DeepOptions
) -> tuple[list[Claim], Deep]:
    delta = run.delta
    assert delta is not None
    profile = PrivacyProfile.of(_segments(case))
    attacks = attacks_on(seen, [canary.name for canary in case.canaries])
    if sealed := run.settings.encryption is not None:
        attacks = [attack for attack in attacks if attack.observer == "model"]
    claims, bounds = [], []
    for observer in _OBSERVERS:
        told = _Told(run.subject, observer, silo, claimed)
        if sealed and observer == "updates":
            claims.append(told.unknown(_SEALED))
            continue
        findings = best_of([each for each in attacks if each.observer == observer], delta=delta)
        bounds += [finding.recorded() for finding in findings]
        claims.append(_claim(told, profile, findings))
    record = Deep(
        subject=run.subject,
        silo=silo,
        claimed=claimed if math.isfinite(claimed) else None,
        delta=delta,
        models=options.models,
        seed=options.seed,
        bounds=tuple(bounds),
        curves=tuple(map(curve_of, attacks)),
        allowed=profile.curve(),
    )
    return claims, record


def _segments(case: Case) -> list[Segment]:
    plans = [round_.plan for round_ in case.rounds]
    return [Segment(each.noise_multiplier, each.sampling_rate, each.steps) for each in plans]


@dataclass(frozen=True)
class _Told:
    """What a claim is about."""

    subject: str
    observer: Observer
    silo: str
    claimed: float

    @property
    def words(self) -> tuple[str, str, str]:
        """The claim's id, its subject and its statement."""
        statement = (
            f"No attack on {_OBSERVERS[self.observer]} shows epsilon of {self.silo} to be above "
            f"{self.claimed:.4g}."
        )
        return f"mechanism.deep-{self.observer}", self.subject, statement

    def unknown(self, why: str) -> Claim:
        """That it cannot be decided, and why."""
        return unknown(*self.words, why)


def _claim(
    told: _Told, profile: PrivacyProfile, findings: tuple[AttackResult, AttackResult]
) -> Claim:
    pure, gaussian = findings
    said = _said(pure)
    if not math.isfinite(told.claimed):
        return told.unknown(f"no bound is claimed; {said}")
    faults, notes = ([said], []) if pure.bound.refutes(told.claimed) else ([], [said])
    if not profile.allows(gaussian.bound.errors):
        faults.append(
            "the mechanism that the ledger charges gives no attack such a chance, with "
            f"{CERTAINTY:.0%} confidence: {_errors(gaussian)}"
        )
    notes.append(f"{_said(gaussian)}, if {gaussian.bound.assumes}")
    return judged(*told.words, faults=faults, notes=notes)


def _said(finding: AttackResult) -> str:
    bound = finding.bound
    return (
        f"epsilon is at least {bound.epsilon:.2f} with {bound.confidence:.0%} confidence, at delta "
        f"{bound.delta:g}: {_errors(finding)}"
    )


def _errors(finding: AttackResult) -> str:
    errors, attack = finding.bound.errors, finding.attack
    return (
        f"by the {attack.score} of the {attack.canary} record it was seen in "
        f"{errors.in_ - errors.false_negatives} of {errors.in_} models with it and in "
        f"{errors.false_positives} of {errors.out} without"
    )
