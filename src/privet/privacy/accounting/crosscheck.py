"""Do other accountants agree with the figure?

The figure is PLD. Renyi DP (dp-accounting) is a different and looser analysis: it must not lie
below PLD. Opacus' PRV is an independent implementation of a tight one: it must agree. GDP is never
asked: it is an approximation that under-estimates (5.40 for a true 6.37), and Opacus' version
forgets all but the last of several mechanisms. Everything here is under add-or-remove adjacency.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from privet.privacy.accounting.events import Segment, dp_sgd_event, merged
from privet.privacy.accounting.spending import epsilon
from privet.privacy.dp_events import DpEvent
from privet.privacy.library_logging import no_absl_warnings, untouched_root_logger

PRV_SEGMENTS = 5
"""PRV's time grows faster than the number of distinct mechanisms: 2 s for 10, 13 s for 50."""

PRV_STEPS = 10**6
PRV_EPSILON = 100.0

_RDP_LOOSENESS = 1.15
_ABSOLUTE = 0.02
_PRV_ERROR = 0.01


@dataclass(frozen=True)
class CrossChecks:
    """What each accountant says about the same events at the same delta.

    `problems` are disagreements: the figure must not be published as checked. `notes` say what was
    not compared, and why; a note is no disagreement.
    """

    pld: float
    rdp: float
    prv: float | None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def agree(self) -> bool:
        """Whether no accountant contradicts the figure."""
        return not self.problems


def cross_check(events: Sequence[DpEvent], *, delta: float) -> CrossChecks:
    """Compare PLD with RDP and PRV for all `events` together.

    RDP must be at least PLD, and within 15 % (plus 0.02) of it unless PRV confirms PLD: for rare
    sampling and for large epsilon RDP itself is looser than that, and above epsilon 100 its
    distance is not judged. PRV must be within 0.02 plus its stated error of 0.01, or 0.2 % of a
    large epsilon; it is left out, with a note, when it would take long or its numerics fail.
    Raises PrivacyError for a delta outside [1e-12, 1).
    """
    figure = epsilon(events, delta=delta)
    parts = tuple(merged(events))
    if not parts or math.isinf(figure):
        note = "nothing was spent" if not parts else "unbounded: there is nothing to compare"
        return CrossChecks(figure, figure, None, notes=(note,))
    renyi = _rdp(parts, delta)
    reason = _why_no_prv(parts, figure)
    prv = None if reason else _prv(parts, delta)
    if prv is None and reason is None:
        reason = "PRV failed on these parameters"
    notes = (f"PRV left out: {reason}",) if reason else ()
    return CrossChecks(figure, renyi, prv, tuple(_disagreements(figure, renyi, prv)), notes)


def _disagreements(pld: float, rdp: float, prv: float | None) -> list[str]:
    problems = []
    # Both are upper bounds, PLD on a grid of 1e-3: rounding alone may put it that much above RDP.
    if rdp < pld * (1 - 1e-3) - 1e-3:
        problems.append(f"RDP says {rdp:.4f}, below PLD's {pld:.4f}: one of them is wrong")
    if prv is not None and abs(prv - pld) > max(_ABSOLUTE + _PRV_ERROR, 0.002 * pld):
        problems.append(f"PRV says {prv:.4f}, PLD {pld:.4f}: more than 0.02 apart")
    # For rare sampling RDP is loose by nature: no contradiction where a tight accountant agrees.
    confirmed = prv is not None and not problems
    too_loose = rdp > _RDP_LOOSENESS * pld + _ABSOLUTE
    if too_loose and not confirmed and pld <= PRV_EPSILON:
        problems.append(f"RDP says {rdp:.4f}, more than 15 % above PLD's {pld:.4f}")
    return problems


@lru_cache(maxsize=256)
def _rdp(parts: tuple[Segment, ...], delta: float) -> float:
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant()
    with no_absl_warnings():
        for part in parts:
            accountant.compose(_event(part))
        return float(accountant.get_epsilon(delta))


def _event(part: Segment) -> DpEvent:
    return dp_sgd_event(
        noise_multiplier=part.noise_multiplier, sampling_rate=part.sampling_rate, steps=part.steps
    )


def _why_no_prv(parts: tuple[Segment, ...], figure: float) -> str | None:
    if len(parts) > PRV_SEGMENTS:
        return f"{len(parts)} distinct mechanisms (more than {PRV_SEGMENTS} are slow)"
    if sum(part.steps for part in parts) > PRV_STEPS:
        return f"more than {PRV_STEPS} steps"
    if figure > PRV_EPSILON:
        return f"epsilon above {PRV_EPSILON:g}"
    return None


@lru_cache(maxsize=256)
def _prv(parts: tuple[Segment, ...], delta: float) -> float | None:
    """Opacus' PRV upper bound, or None when its numerics fail (it then raises all sorts)."""
    # Imported here: Opacus takes seconds, and most calls of this package need no cross-check.
    with untouched_root_logger():
        from opacus.accountants import PRVAccountant
    accountant = PRVAccountant()
    # As Opacus' own optimizer would have left it: there is no other way to hand over many steps at
    # once.
    accountant.history = [(part.noise_multiplier, part.sampling_rate, part.steps) for part in parts]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            bound = float(accountant.get_epsilon(delta, eps_error=_PRV_ERROR))
        except (ArithmeticError, ValueError, RuntimeError, MemoryError):
            return None
    return bound if math.isfinite(bound) else None
