"""What a report keeps of a deep audit: its bounds, and the curves to draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Observer = Literal["updates", "model"]
"""Who looks: the server, which gets the silo's update of every round, or who has the last model."""

Score = Literal["dot product", "loss", "likelihood ratio"]

FEWEST = 40
"""Models below which an attack on them says nothing."""


@dataclass(frozen=True)
class DeepOptions:
    """How deep an audit goes."""

    models: int = 1000
    seed: int = 0


@dataclass(frozen=True)
class AttackBound:
    """ "Epsilon is at least `epsilon`": of an attack that half of the models chose.

    The counts are of the other half, at `threshold`: models whose score is above it are taken for
    models with the canary.
    """

    observer: Observer
    canary: str
    score: Score
    threshold: float
    false_positives: int
    out: int
    """Models without the canary."""
    false_negatives: int
    inside: int
    """Models with it."""
    epsilon: float
    confidence: float
    assumes: str | None
    """What has to hold besides; null for Clopper and Pearson's bound, which assumes nothing."""


@dataclass(frozen=True)
class AttackCurve:
    """One attack at every threshold, on the models that the bounds are counted on.

    For each false-positive rate that occurs, the largest true-positive rate; both rise.
    """

    observer: Observer
    canary: str
    score: Score
    false_positive_rates: tuple[float, ...]
    true_positive_rates: tuple[float, ...]


@dataclass(frozen=True)
class Allowed:
    """The largest true-positive rates that the charged mechanism leaves possible."""

    false_positive_rates: tuple[float, ...]
    true_positive_rates: tuple[float, ...]


@dataclass(frozen=True)
class Deep:
    """One run, attacked at the silo that claims most."""

    subject: str
    silo: str
    claimed: float | None
    """The silo's epsilon as the run claims it; null where it has no bound."""
    delta: float
    models: int
    seed: int
    bounds: tuple[AttackBound, ...]
    curves: tuple[AttackCurve, ...]
    allowed: Allowed
