"""What a sequence of events has cost so far: epsilon as a pure function of the events."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from privet.errors import PrivacyError
from privet.privacy.accounting.events import Segment, segments
from privet.privacy.accounting.losses import NOTHING, Pair, losses_of
from privet.privacy.dp_events import DpEvent

SMALLEST_DELTA = 1e-12
"""Below it the rounding of the convolutions is no longer small against delta."""


@dataclass(frozen=True)
class _State:
    """Composed losses, and the segment that can still grow; losses of None are unbounded."""

    closed: Pair | None = NOTHING
    growing: Segment | None = None

    def after(self, event: DpEvent) -> _State:
        state = self
        for part in segments(event):
            # So R equal rounds cost what calibrating over all their steps promised, to the bit.
            if state.growing is not None and state.growing.same_mechanism(part):
                longer = replace(part, steps=state.growing.steps + part.steps)
                state = _State(state.closed, longer)
            else:
                state = _State(state.total(), part)
        return state

    def total(self) -> Pair | None:
        if self.growing is None or self.closed is None:
            return self.closed
        latest = losses_of(self.growing)
        if self.closed is NOTHING or latest is None:
            return latest
        return _composed(self.closed, latest)


@dataclass(frozen=True)
class Spending:
    """The privacy loss of `events` under composition; immutable, `after` gives the next one.

    Guarantee: for every delta, the events together are (epsilon(delta), delta)-differentially
    private under ADD-OR-REMOVE adjacency of one record, if each mechanism is what its event says.
    Composition by privacy loss distributions on a grid of 1e-3, pessimistically rounded, so epsilon
    is an upper bound. Segments of one mechanism that follow each other are composed as one, so a
    run of R equal rounds costs exactly what a calibration over all its steps promised.

    One more event costs one or two convolutions, however many came before.
    """

    events: tuple[DpEvent, ...] = ()
    _state: _State | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self._state is None:
            state = _State()
            for event in self.events:
                state = state.after(event)
            object.__setattr__(self, "_state", state)  # frozen for all others

    def after(self, event: DpEvent) -> Spending:
        """The spending when `event` comes on top; PrivacyError for events that are unknown."""
        assert self._state is not None
        return Spending((*self.events, event), self._state.after(event))

    def epsilon(self, delta: float) -> float:
        """Epsilon at `delta`; 0 without events, infinity without noise or beyond about 1000.

        Raises PrivacyError for a delta outside [1e-12, 1).
        """
        check_delta(delta)
        assert self._state is not None
        total = self._state.total()
        return math.inf if total is None else _epsilon(total, delta)


def epsilon(events: Sequence[DpEvent], *, delta: float) -> float:
    """Epsilon of all `events` together at `delta`; see Spending."""
    return Spending(tuple(events)).epsilon(delta)


def check_delta(delta: float) -> None:
    """Raise PrivacyError unless `delta` lies in [1e-12, 1)."""
    if not SMALLEST_DELTA <= delta < 1:
        raise PrivacyError(f"privacy.delta = {delta} must lie in [{SMALLEST_DELTA:g}, 1)")


@lru_cache(maxsize=32)
def _composed(closed: Pair, latest: Pair) -> Pair | None:
    """Cached by identity: silos with equal plans share their objects, hence the work."""
    return closed.compose(latest)


@lru_cache(maxsize=128)
def _epsilon(total: Pair, delta: float) -> float:
    return total.epsilon(delta)
