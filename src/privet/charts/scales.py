"""From values to places on an axis, and the round levels that an axis names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Tick:
    """A level that an axis names; `at` is in per cent from the left or from the bottom."""

    at: float
    text: str


@dataclass(frozen=True)
class Scale:
    """From values between `low` and `high` to places between `start` and `end`; clipped."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """Where a value lies: in the middle if there is but one value, NaN at the start."""
        low, high, at = map(self._transformed, (self.low, self.high, value))
        half = high / 2 - low / 2  # of two large numbers even the difference may be too large
        share = (at / 2 - low / 2) / half if half > 0 else 0.5
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def _transformed(self, value: float) -> float:
        return math.log10(max(value, self.low)) if self.logarithmic else value


def nice_ticks(values: Sequence[float], *, wanted: int = 5) -> list[float]:
    """At least two round levels (1, 2 or 5 times a power of ten apart) that enclose `values`."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    # So little is rounding: an axis that magnified it would show noise as a trend.
    if high - low <= 1e-12 * max(abs(high), abs(low)):
        pad = abs(high) / 10 or 0.5
        low, high = low - pad, high + pad
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if raw <= power * factor * (1 + 1e-9))
    # A value that is a level but for rounding needs no further one.
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def ticks(levels: Sequence[float], scale: Scale) -> tuple[Tick, ...]:
    """Ticks at round levels, all with the decimals that their distance needs.

    >>> [tick.text for tick in ticks([0.0, 0.05, 0.1], Scale(0.0, 0.1, 0.0, 100.0))]
    ['0', '0.05', '0.10']
    """
    return tuple(Tick(scale(level), _level_text(level, levels)) for level in levels)


def decades(low: float, high: float) -> list[float]:
    """The powers of ten from `low` to `high`, of long ranges every second or third."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    step = math.ceil((last - first + 1) / 7)
    return [10.0**power for power in range(last, first - 1, -step)][::-1]


def finite(values: Iterable[float | None]) -> list[float]:
    """The values that can be drawn."""
    return [value for value in values if value is not None and math.isfinite(value)]


def _level_text(value: float, levels: Sequence[float]) -> str:
    step = levels[1] - levels[0]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if decimals > 4 or abs(levels[-1]) >= 1e6:
        return f"{value:.2g}"
    # Of a level that is 0 but for rounding, "-0.0" would be told.
    return f"{value:.{decimals}f}" if abs(value) > step / 2 else "0"
