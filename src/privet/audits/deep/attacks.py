"""Attacks on models with and without a canary, and what all that is charged allows any attack.

One half of the models chooses attack and threshold, the other half counts its errors. So a bound is
that of one attack that was fixed before, however many were tried.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from privet.audits.deep.record import Allowed, AttackBound, AttackCurve, Observer, Score
from privet.audits.deep.training import Observations
from privet.audits.lower_bounds import (
    GAUSSIAN,
    Errors,
    Threshold,
    TwoSidedBound,
    best_threshold,
    clopper_pearson_bound,
    errors_at,
    gaussian_bound,
    roc,
)
from privet.errors import PrivacyError
from privet.privacy.accounting.events import Segment
from privet.privacy.ledger.costs import epsilon_of
from privet.privacy.mechanisms.canaries import Floats, Mask

CERTAINTY = 0.99
"""Confidence of the two error rates that are held against all that the claim allows."""

_DELTAS = np.concatenate([np.logspace(-10, -2, 81), np.linspace(0.02, 0.98, 49)])
_DIGITS = 6


@dataclass(frozen=True)
class PrivacyProfile:
    """Every (epsilon, delta) that mechanisms promise together, at a few deltas."""

    points: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, parts: Sequence[Segment]) -> PrivacyProfile:
        """Of the (sampled) Gaussian mechanisms `parts`, composed."""
        return cls(tuple((epsilon_of(parts, delta=float(d)), float(d)) for d in _DELTAS))

    def allows(self, errors: Errors) -> bool:
        """Whether the errors' rates are possible at all (Kairouz, Oh & Viswanath 2015).

        For mechanisms that keep the promise, the answer is no with probability 1 % at most.
        """
        false_positive, false_negative = errors.upper(CERTAINTY)
        return 1 - false_negative <= self.largest(false_positive)

    def largest(self, false_positive: float) -> float:
        """The largest true-positive rate at a false-positive rate above 0."""
        found = 1.0
        for epsilon, delta in self.points:
            if math.isfinite(epsilon):
                one = math.exp(epsilon) * false_positive + delta
                other = 1 - (1 - false_positive - delta) * math.exp(-epsilon)
                found = min(found, one, other)
        return found

    def curve(self) -> Allowed:
        """`largest`, to draw."""
        rates = np.concatenate([np.logspace(-4, 0, 121), np.linspace(0.01, 1, 100)])
        rates = np.unique(rates.round(_DIGITS))
        allowed = np.array([self.largest(float(rate)) for rate in rates])
        return Allowed(rounded(rates), rounded(allowed))


def rounded(values: Floats) -> tuple[float, ...]:
    """Rates as a report keeps them."""
    return tuple(round(float(value), _DIGITS) for value in values)


@dataclass(frozen=True)
class Attack:
    """A score of every model, larger where a canary seems to have been in."""

    observer: Observer
    canary: str
    score: Score
    scores: Floats
    inserted: Mask
    """Which models had the canary; both of shape (models,)."""

    def sides(self, part: slice) -> tuple[Floats, Floats]:
        """Scores of the models with the canary and of those without, in a part of all."""
        scores, inserted = self.scores[part], self.inserted[part]
        return scores[inserted], scores[~inserted]


@dataclass(frozen=True)
class AttackResult:
    """What an attack showed on the models that did not choose it or its threshold."""

    attack: Attack
    threshold: float
    bound: TwoSidedBound

    def recorded(self) -> AttackBound:
        """As a report keeps it."""
        errors = self.bound.errors
        return AttackBound(
            observer=self.attack.observer,
            canary=self.attack.canary,
            score=self.attack.score,
            threshold=self.threshold,
            false_positives=errors.false_positives,
            out=errors.out,
            false_negatives=errors.false_negatives,
            inside=errors.in_,
            epsilon=self.bound.epsilon,
            confidence=self.bound.confidence,
            assumes=self.bound.assumes,
        )


def attacks_on(seen: Observations, canaries: Sequence[str]) -> list[Attack]:
    """Every attack of both observers; PrivacyError for a score that is no number."""
    found = []
    for place, name in enumerate(canaries):
        bits, losses = seen.inserted[:, place], seen.losses[:, place]
        found += [
            Attack("updates", name, "dot product", seen.products[:, place], bits),
            Attack("model", name, "loss", -losses, bits),
            Attack("model", name, "likelihood ratio", _likelihood_ratio(losses, bits), bits),
        ]
    if not all(np.isfinite(attack.scores).all() for attack in found):
        raise PrivacyError("a training diverged: its model has numbers that are not finite")
    return found


def best_of(attacks: Sequence[Attack], *, delta: float) -> tuple[AttackResult, AttackResult]:
    """Clopper and Pearson's bound and the one under the Gaussian assumption, each of the attack
    and the threshold for which it is largest on the first half of the models."""
    assumption_free, gaussian = _chosen(attacks, None), _chosen(attacks, GAUSSIAN)
    return (
        _result(*assumption_free, clopper_pearson_bound(_errors(*assumption_free), delta=delta)),
        _result(*gaussian, gaussian_bound(_errors(*gaussian), delta=delta)),
    )


def curve_of(attack: Attack) -> AttackCurve:
    """The attack at every threshold, on the second half."""
    false_positive, true_positive = roc(*attack.sides(_second(attack)))
    last = np.append(np.diff(false_positive) > 0, True)
    return AttackCurve(
        attack.observer,
        attack.canary,
        attack.score,
        rounded(false_positive[last]),
        rounded(true_positive[last]),
    )


def _chosen(attacks: Sequence[Attack], assumes: str | None) -> tuple[Attack, Threshold]:
    tried = [
        (attack, best_threshold(*attack.sides(_first(attack)), assumes=assumes))
        for attack in attacks
    ]
    return max(tried, key=lambda each: each[1].rank)


def _errors(attack: Attack, threshold: Threshold) -> Errors:
    return errors_at(threshold.at, *attack.sides(_second(attack)))


def _result(attack: Attack, threshold: Threshold, bound: TwoSidedBound) -> AttackResult:
    return AttackResult(attack, threshold.at, bound)


def _likelihood_ratio(losses: Floats, inserted: Mask) -> Floats:
    """How much better a model's loss fits those of models with the canary than those without.

    Normal laws of log(p / (1 - p)), p = exp(-loss), from the first half of the models as shadows
    (Carlini et al. 2022, arXiv 2112.03570).
    """
    losses = losses.clip(1e-12)
    logits = -losses - np.log(-np.expm1(-losses))
    half = len(losses) // 2
    known, bits = logits[:half], inserted[:half]
    return _log_density(logits, known[bits]) - _log_density(logits, known[~bits])


def _log_density(values: Floats, of: Floats) -> Floats:
    deviation = max(float(of.std()), 1e-9)
    return np.asarray(-0.5 * np.square((values - of.mean()) / deviation) - math.log(deviation))


def _first(attack: Attack) -> slice:
    return slice(0, len(attack.scores) // 2)


def _second(attack: Attack) -> slice:
    return slice(len(attack.scores) // 2, None)
