"""The comparisons of a sweep, by what came of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from privet.simulations.pages.formatting import plus_minus
from privet.simulations.sweep.results import Comparison, Sweep
from privet.simulations.sweep.statistics import LEVEL

Outcome = Literal["shown", "not shown", "not tested"]
"""Whether a difference is claimed."""


@dataclass(frozen=True)
class Compared:
    """A comparison and its sentence."""

    of: Comparison
    words: str
    outcome: Outcome


def compared(sweep: Sweep) -> tuple[Compared, ...]:
    """In the order of the sweep."""
    return tuple(Compared(c, plus_minus(c.words), _outcome(c)) for c in sweep.comparisons)


def _outcome(comparison: Comparison) -> Outcome:
    if comparison.p_holm is None:
        return "not tested"
    return "shown" if comparison.p_holm < LEVEL else "not shown"
