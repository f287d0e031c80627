"""What a job would come to before it runs: how many of its rounds fit, and with how much noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from privet.privacy.accounting.calibration import raised_noise
from privet.privacy.dp_events import DpEvent, dpa
from privet.privacy.ledger.history import Projection

Project = Callable[[DpEvent], Sequence[Projection]]
"""What each limit would say of an event that came on top; see `Ledger.project`."""


@dataclass(frozen=True)
class Forecast:
    """What limits would say of the coming round, and of all rounds that a job still has."""

    coming: tuple[Projection, ...]
    whole: tuple[Projection, ...]
    rounds: int
    """How many of the rounds fit, one after the other."""

    @property
    def fits(self) -> bool:
        """Whether every limit would still hold after the last round."""
        return all(projection.fits for projection in self.whole)


def forecast(project: Project, event: DpEvent, *, rounds: int) -> Forecast:
    """The outlook for `rounds` (>= 1) equal rounds of `event`. Promises and records nothing."""
    coming, whole = tuple(project(event)), tuple(project(repeated(event, rounds)))
    if all(projection.fits for projection in whole):
        return Forecast(coming, whole, rounds)
    # Bisection: what `n` rounds cost never falls with n.
    enough, too_many = 0, rounds
    while too_many - enough > 1:
        middle = (enough + too_many) // 2
        if all(projection.fits for projection in project(repeated(event, middle))):
            enough = middle
        else:
            too_many = middle
    return Forecast(coming, whole, enough)


def fitting_noise(
    project: Project, event_at: Callable[[float], DpEvent], *, rounds: int, floor: float
) -> float | None:
    """The least noise multiplier from `floor` on with which `rounds` rounds fit every limit.

    `event_at` gives a round's event for a noise multiplier. None when no noise makes them fit.
    """

    def cost(noise_multiplier: float) -> float:
        found = project(repeated(event_at(noise_multiplier), rounds))
        return max((_share(projection) for projection in found), default=0.0)

    return raised_noise(cost, floor=floor)


def repeated(event: DpEvent, times: int) -> DpEvent:
    """`event` as often as `times` (>= 1)."""
    return dpa.SelfComposedDpEvent(event, times)


def _share(projection: Projection) -> float:
    """What would be spent over what is allowed: at most 1 exactly when the projection fits."""
    if projection.fits:
        return projection.projected / (projection.limit.epsilon or 1.0)
    # Rounding of the division must not make a limit that is exceeded look like one that holds.
    return math.nextafter(projection.projected / (projection.limit.epsilon or 1e-300), math.inf)
