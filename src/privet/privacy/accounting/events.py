"""Events: what a mechanism did, in the words of dp-accounting, and their JSON form.

An event says enough to compute the privacy loss and nothing about the data. Adjacency everywhere in
privet is add-or-remove one record (one client for client-level mechanisms): the noise multiplier of
a Gaussian event is the noise's standard deviation over the L2 norm bound of ONE record. Under
replace-one adjacency the same event would cost about twice as much, so an event must never be
handed to an accountant of another adjacency.

A segment is so many steps of one Poisson-sampled Gaussian mechanism. Composition does not depend on
order, and composing T and then S steps of one mechanism is composing T + S of them, so a sequence
of events is a list of segments and equal neighbours may be merged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from privet.errors import PrivacyError
from privet.privacy.dp_events import DpEvent, dpa

VERSION = 1
# Far above what is ever written: an event of a peer must not exhaust the stack.
_DEEPEST = 16
_MOST_STEPS = 2**53


def dp_sgd_event(*, noise_multiplier: float, sampling_rate: float, steps: int) -> DpEvent:
    """The event of `steps` DP-SGD steps (Abadi et al. 2016, arXiv 1607.00133).

    In each step every record takes part by its own coin of probability `sampling_rate` (Poisson
    sampling), and noise of `noise_multiplier` times the clip norm is added to the sum of the
    clipped gradients. Adjacency: add or remove one record. No steps make a NoOpDpEvent.

    Raises PrivacyError for a noise multiplier below 0, a rate outside (0, 1] or negative steps.
    """
    gaussian = gaussian_event(noise_multiplier)
    if not 0 < sampling_rate <= 1:
        raise PrivacyError(f"sampling_rate = {sampling_rate} must lie in (0, 1]")
    if steps < 0:
        raise PrivacyError(f"steps = {steps} must not be negative")
    if steps == 0:
        return dpa.NoOpDpEvent()
    step = dpa.PoissonSampledDpEvent(float(sampling_rate), gaussian)
    return dpa.SelfComposedDpEvent(step, int(steps))


def gaussian_event(noise_multiplier: float) -> DpEvent:
    """The event of one release with Gaussian noise (Dwork & Roth 2014, appendix A).

    `noise_multiplier` is the noise's standard deviation over the L2 distance by which one record
    can move what is released. Raises PrivacyError unless it is finite and at least 0.
    """
    if not (math.isfinite(noise_multiplier) and noise_multiplier >= 0):
        raise PrivacyError(f"noise_multiplier = {noise_multiplier} must be finite and at least 0")
    return dpa.GaussianDpEvent(float(noise_multiplier))


def plain_event() -> DpEvent:
    """The event of a use of the records without differential privacy: its epsilon is infinite."""
    return dpa.NonPrivateDpEvent()


def encode_event(event: DpEvent) -> dict[str, object]:
    """A JSON-able form of `event`, with the version of the format; floats keep every bit.

    Gaussian, Poisson-sampled, self-composed, composed, no-op and non-private events; others:
    PrivacyError.
    """
    return {"version": VERSION, **_encode(event)}


def decode_event(encoded: Mapping[str, Any]) -> DpEvent:
    """The event that `encode_event` wrote.

    Raises PrivacyError for an unknown version or type, missing or additional keys, values out of
    range, nesting deeper than 16 and mechanisms that cannot be accounted: what cannot be read must
    not be counted as nothing.
    """
    if not isinstance(encoded, Mapping) or "version" not in encoded:
        raise PrivacyError("not an encoded privacy event: it has no version")
    fields = dict(encoded)
    version = fields.pop("version")
    # True == 1 in Python, and JSON knows the difference.
    if version != VERSION or isinstance(version, bool):
        raise PrivacyError(f"privacy event of version {version!r}; this privet reads {VERSION}")
    event = _decode(fields, depth=0)
    for part in segments(event):
        check_steps(part.steps)
    return event


def check_steps(steps: int) -> None:
    """PrivacyError for more than 2^53 steps: up to there every whole number is a float."""
    if steps > _MOST_STEPS:
        raise PrivacyError("steps of one mechanism must be at most 2^53")


def _encode(event: DpEvent) -> dict[str, object]:
    match event:
        case dpa.NoOpDpEvent():
            return {"type": "no-op"}
        case dpa.NonPrivateDpEvent():
            return {"type": "non-private"}
        case dpa.GaussianDpEvent():
            return {"type": "gaussian", "noise_multiplier": float(event.noise_multiplier)}
        case dpa.PoissonSampledDpEvent():
            rate = float(event.sampling_probability)
            return {"type": "poisson", "sampling_rate": rate, "event": _encode(event.event)}
        case dpa.SelfComposedDpEvent():
            return {"type": "repeated", "times": int(event.count), "event": _encode(event.event)}
        case dpa.ComposedDpEvent():
            return {"type": "composed", "events": [_encode(part) for part in event.events]}
    raise PrivacyError(f"a {type(event).__name__} has no encoding")


def _decode(fields: object, *, depth: int) -> DpEvent:
    if depth > _DEEPEST:
        raise PrivacyError(f"a privacy event is nested deeper than {_DEEPEST}")
    if not isinstance(fields, Mapping):
        raise PrivacyError(f"a privacy event must be an object, not {type(fields).__name__}")
    rest = dict(fields)
    kind = rest.pop("type", None)
    if not isinstance(kind, str) or kind not in _READERS:
        raise PrivacyError(f"unknown type of privacy event: {kind!r}")
    keys, read = _READERS[kind]
    # An unknown key could carry a condition that this version does not account for.
    if set(rest) != keys:
        wanted = ", ".join(sorted(keys)) or "no keys"
        raise PrivacyError(f"privacy event of type {kind!r} needs {wanted}; it has {sorted(rest)}")
    return read(rest, depth)


def _read_no_op(_fields: dict[str, Any], _depth: int) -> DpEvent:
    return dpa.NoOpDpEvent()


def _read_non_private(_fields: dict[str, Any], _depth: int) -> DpEvent:
    return dpa.NonPrivateDpEvent()


def _read_gaussian(fields: dict[str, Any], _depth: int) -> DpEvent:
    return dpa.GaussianDpEvent(_number(fields, "noise_multiplier", high=math.inf))


def _read_poisson(fields: dict[str, Any], depth: int) -> DpEvent:
    rate = _number(fields, "sampling_rate", high=1.0)
    return dpa.PoissonSampledDpEvent(rate, _decode(fields["event"], depth=depth + 1))


def _read_repeated(fields: dict[str, Any], depth: int) -> DpEvent:
    times = fields["times"]
    if not isinstance(times, int) or isinstance(times, bool) or times < 1:
        raise PrivacyError(f"privacy event: times = {times!r} must be a whole number from 1")
    return dpa.SelfComposedDpEvent(_decode(fields["event"], depth=depth + 1), times)


def _read_composed(fields: dict[str, Any], depth: int) -> DpEvent:
    if not isinstance(fields["events"], list):
        raise PrivacyError("privacy event: events must be a list")
    return dpa.ComposedDpEvent([_decode(part, depth=depth + 1) for part in fields["events"]])


def _number(fields: dict[str, Any], key: str, *, high: float) -> float:
    value = fields[key]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value) and 0 <= value <= high):
        raise PrivacyError(f"privacy event: {key} = {value!r} must be a number in [0, {high:g}]")
    return float(value)


_READERS: dict[str, tuple[set[str], Callable[[dict[str, Any], int], DpEvent]]] = {
    "no-op": (set(), _read_no_op),
    "non-private": (set(), _read_non_private),
    "gaussian": ({"noise_multiplier"}, _read_gaussian),
    "poisson": ({"sampling_rate", "event"}, _read_poisson),
    "repeated": ({"times", "event"}, _read_repeated),
    "composed": ({"events"}, _read_composed),
}


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
            # No noise: its loss is infinite, and so is that of whatever it is composed with.
            yield Segment(0.0, 1.0, times)
        case dpa.SelfComposedDpEvent():
            yield from segments(event.event, times * event.count)
        case dpa.ComposedDpEvent():
            for part in event.events:
                yield from segments(part, times)
        case dpa.GaussianDpEvent():
            yield Segment(event.noise_multiplier, 1.0, times)
        # Only straight around a Gaussian: a sampled composition shares one sample among its steps,
        # which is not the composition of sampled steps.
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
