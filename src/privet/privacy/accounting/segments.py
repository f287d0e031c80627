"""Events taken apart: so many steps of one Poisson-sampled Gaussian mechanism.

Composition does not depend on order, and composing T and then S steps of one mechanism is composing
T + S of them, so a sequence of events is a list of segments and equal neighbours may be merged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from privet.errors import PrivacyError
from privet.privacy.dp_events import DpEvent, dpa


@dataclass(frozen=True)
class Segment:
    """`steps` steps of the Gaussian mechanism over Poisson samples (add-or-remove adjacency)."""

    noise_multiplier: float
    sampling_rate: float
    steps: int

    def same_mechanism(self, other: Segment) -> bool:
        """Whether the two differ at most in their number of steps."""
        mine = (self.noise_multiplier, self.sampling_rate)
        return mine == (other.noise_multiplier, other.sampling_rate)


def segments(event: DpEvent, times: int = 1) -> Iterator[Segment]:
    """The segments of `event` repeated `times`; none for no-ops and for a sampling rate of 0.

    A use without differential privacy is the mechanism without noise.

    Raises PrivacyError for events that are no composition of (sampled) Gaussian mechanisms.
    """
    match event:
        case dpa.NoOpDpEvent():
            return
        case dpa.NonPrivateDpEvent():
            yield Segment(0.0, 1.0, times)
        case dpa.SelfComposedDpEvent():
            yield from segments(event.event, times * event.count)
        case dpa.ComposedDpEvent():
            for part in event.events:
                yield from segments(part, times)
        case dpa.GaussianDpEvent():
            yield Segment(event.noise_multiplier, 1.0, times)
        case dpa.PoissonSampledDpEvent(event=dpa.GaussianDpEvent() as gaussian):
            if event.sampling_probability > 0:
                yield Segment(gaussian.noise_multiplier, event.sampling_probability, times)
        case _:
            raise PrivacyError(f"a {type(event).__name__} cannot be accounted here")


def merged(events: Iterable[DpEvent]) -> list[Segment]:
    """All segments of `events`, with the steps of equal mechanisms added up."""
    steps: dict[tuple[float, float], int] = {}
    for event in events:
        for part in segments(event):
            key = (part.noise_multiplier, part.sampling_rate)
            steps[key] = steps.get(key, 0) + part.steps
    return [Segment(sigma, rate, count) for (sigma, rate), count in steps.items()]
