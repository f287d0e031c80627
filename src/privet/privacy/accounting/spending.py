"""What a sequence of events has cost so far: epsilon as a pure function of the events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from privet.errors import PrivacyError
from privet.privacy.accounting.events import Segment, check_steps, segments
from privet.privacy.accounting.gaussian import folded
from privet.privacy.accounting.losses import (
    NOTHING,
    UNTILTED,
    Pair,
    Tilts,
    composed_epsilon,
    losses_of,
)
from privet.privacy.dp_events import DpEvent

SMALLEST_DELTA = 1e-12
"""Nobody can tell a smaller one from 0, and tilted masses are not tuned for it."""


@dataclass(frozen=True)
class _State:
    """Composed losses, and the segment that can still grow; losses of None are unbounded.

    Both of sampled mechanisms only. `steps` counts those of every (noise multiplier, rate).
    """

    closed: Pair | None = NOTHING
    growing: Segment | None = None
    steps: Mapping[tuple[float, float], int] = field(default_factory=dict)

    def after(self, event: DpEvent) -> _State:
        state = self
        for part in segments(event):
            state = state._after(part)
        return state

    def _after(self, part: Segment) -> _State:
        mechanism = (part.noise_multiplier, part.sampling_rate)
        counted = {**self.steps, mechanism: self.steps.get(mechanism, 0) + part.steps}
        check_steps(counted[mechanism])
        if part.sampling_rate == 1:
            return replace(self, steps=counted)
        # So R equal rounds cost what calibrating over all their steps promised, to the bit.
        if self.growing is not None and self.growing.same_mechanism(part):
            longer = replace(part, steps=self.growing.steps + part.steps)
            return replace(self, growing=longer, steps=counted)
        return _State(self._sampled(), part, counted)

    def epsilon(self, delta: float) -> float:
        parts = folded(Segment(*mechanism, count) for mechanism, count in self.steps.items())

        def compose(tilts: Tilts) -> Pair | None:
            if tilts != UNTILTED:
                return _tree(parts, tilts)
            gaussian = parts[-1:] if parts and parts[-1].sampling_rate == 1 else ()
            return _all_composed(gaussian, UNTILTED, self._sampled())

        return composed_epsilon(parts, delta=delta, compose=compose)

    def _sampled(self) -> Pair | None:
        return _all_composed((self.growing,) if self.growing else (), UNTILTED, self.closed)


@dataclass(frozen=True)
class Spending:
    """The privacy loss of `events` under composition; immutable, `after` gives the next one.

    Guarantee: for every delta, the events together are (epsilon(delta), delta)-differentially
    private under ADD-OR-REMOVE adjacency of one record, if each mechanism is what its event says.
    Unsampled Gaussian mechanisms alone: exact. Else composition by privacy loss distributions on a
    grid of 1e-3, pessimistically rounded, with the error of the arithmetic as a term of delta (see
    `losses`), so epsilon is an upper bound. Segments of one mechanism that follow each other are
    composed as one, so a run of R equal rounds costs exactly what a calibration over all its steps
    promised.

    One more event costs one or two convolutions, however many came before.
    """

    events: tuple[DpEvent, ...] = ()
    _state: _State | None = field(default=None, repr=False, compare=False)
    _known: dict[float, float] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Epsilon by delta, once it was asked for: an idle silo's is asked for in every round."""

    def __post_init__(self) -> None:
        if self._state is None:
            state = _State()
            for event in self.events:
                state = state.after(event)
            object.__setattr__(self, "_state", state)  # frozen for all others

    def after(self, event: DpEvent) -> Spending:
        """The spending when `event` comes on top; PrivacyError for one that cannot be added up."""
        assert self._state is not None
        return Spending((*self.events, event), self._state.after(event))

    def epsilon(self, delta: float) -> float:
        """Epsilon at `delta`; 0 without events, infinity without noise or beyond about 1000.

        Raises PrivacyError for a delta outside [1e-12, 1), and for one that the arithmetic cannot
        reach with so many steps; the message names the smallest that it can.
        """
        check_delta(delta)
        assert self._state is not None
        if delta not in self._known:
            self._known[delta] = self._state.epsilon(delta)
        return self._known[delta]


def epsilon(events: Sequence[DpEvent], *, delta: float) -> float:
    """Epsilon of all `events` together at `delta`; see Spending."""
    return Spending(tuple(events)).epsilon(delta)


def check_delta(delta: float) -> None:
    """Raise PrivacyError unless `delta` lies in [1e-12, 1)."""
    if not SMALLEST_DELTA <= delta < 1:
        raise PrivacyError(f"privacy.delta = {delta} must lie in [{SMALLEST_DELTA:g}, 1)")


def _all_composed(
    parts: Sequence[Segment], tilts: Tilts, whole: Pair | None = NOTHING
) -> Pair | None:
    """The losses of `whole` and all `parts` at `tilts`; None when unbounded."""
    for part in parts:
        losses = losses_of(part, tilts)
        if whole is None or losses is None:
            return None
        # A convolution, even with nothing, would add its rounding.
        whole = losses if whole is NOTHING else _composed(whole, losses)
    return whole


@lru_cache(maxsize=64)
def _tree(parts: tuple[Segment, ...], tilts: Tilts) -> Pair | None:
    """As `_all_composed`; one more part changes no branch of those before it."""
    if len(parts) == 1:
        return losses_of(parts[0], tilts)
    middle = 1 << ((len(parts) - 1).bit_length() - 1)
    left, right = _tree(parts[:middle], tilts), _tree(parts[middle:], tilts)
    return None if left is None or right is None else _composed(left, right)


@lru_cache(maxsize=32)
def _composed(closed: Pair, latest: Pair) -> Pair | None:
    """Cached by identity: silos with equal plans share their objects, hence the work."""
    return closed.compose(latest)
