"""Accuracies that a reader may ask the rounds to."""

from __future__ import annotations

from dataclasses import dataclass

from privet.simulations.pages.scales import finite
from privet.simulations.sweep.results import Sweep

SHARES = (0.5, 0.8, 0.9, 0.95, 0.98, 1.0)
"""Targets that can be chosen, of the best mean."""
DEFAULT = SHARES.index(0.95)


@dataclass(frozen=True)
class Targets:
    """Levels of accuracy, each a share of the best mean, rounded so that they can be said."""

    best: float
    private: bool
    """Whether `best` is the best with privacy, or of all there is."""
    levels: tuple[float, ...]


def targets(sweep: Sweep) -> Targets | None:
    """From the best mean of a federation with privacy, else of any estimate; None without any."""
    private = [each.mean for each in sweep.estimates if each.epsilon is not None]
    means = finite(private) or finite(each.mean for each in sweep.estimates)
    if not means:
        return None
    best = max(means)
    return Targets(best, bool(finite(private)), tuple(round(best * share, 3) for share in SHARES))
