"""The same epsilon without privet: what ran, and ten lines over dp-accounting alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from privet.privacy.accounting.segments import Segment

_SNIPPET = """\
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant

segments = {segments}  # noise multiplier, sampling rate, steps
accountant = PLDAccountant(value_discretization_interval=1e-4)  # add or remove one record
for noise_multiplier, sampling_rate, steps in segments:
    gaussian = GaussianDpEvent(noise_multiplier)
    step = PoissonSampledDpEvent(sampling_rate, gaussian) if sampling_rate < 1 else gaussian
    accountant.compose(SelfComposedDpEvent(step, steps))
print(accountant.get_epsilon({delta!r}))
"""


def segments_of(parts: Iterable[Segment]) -> tuple[Segment, ...]:
    """Each mechanism once, with all its steps; sorted."""
    steps: dict[tuple[float, float], int] = {}
    for part in parts:
        place = part.noise_multiplier, part.sampling_rate
        steps[place] = steps.get(place, 0) + part.steps
    return tuple(Segment(*place, count) for place, count in sorted(steps.items()))


def snippet(segments: Sequence[Segment], *, delta: float) -> str:
    """A program that prints the epsilon of `segments`, on a grid finer than privet's."""
    rows = [(part.noise_multiplier, part.sampling_rate, part.steps) for part in segments]
    return _SNIPPET.format(segments=rows, delta=delta)
