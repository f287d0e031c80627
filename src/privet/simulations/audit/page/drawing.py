"""Figures as geometry. Every mark names a style, which the template draws with a light colour.

A PDF is made without the page's style sheet inside of figures; on a screen that sheet has its own
colours for the same names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

WIDTH = 420.0

Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True)
class Mark:
    """A path; `style` is one of those that the template knows."""

    path: str
    style: str
    title: str = ""


@dataclass(frozen=True)
class Label:
    x: float
    y: float
    text: str
    anchor: Anchor = "start"
    style: str = "label"


@dataclass(frozen=True)
class Picture:
    """WIDTH units wide; `description` is for those who cannot see it."""

    title: str
    description: str
    height: float
    marks: tuple[Mark, ...]
    labels: tuple[Label, ...]
    legend: tuple[tuple[str, str], ...] = ()
    """Styles, and what they stand for."""


@dataclass(frozen=True)
class Scale:
    """From values between `low` and `high` to places between `start` and `end`; clipped."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """Where a value lies; one that is not finite, at the end that it is nearer to."""
        low, high, at = map(self._transformed, (self.low, self.high, value))
        share = min(1.0, max(0.0, (at - low) / (high - low))) if at == at else 0.0
        return self.start + share * (self.end - self.start)

    def _transformed(self, value: float) -> float:
        return math.log10(max(value, self.low)) if self.logarithmic else value


def decades(low: float, high: float) -> list[float]:
    """The powers of ten from `low` to `high`, of long ranges every second or third."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    step = math.ceil((last - first + 1) / 7)
    return [10.0**power for power in range(last, first - 1, -step)][::-1]


def dot(x: float, y: float, style: str, title: str = "", *, radius: float = 4.0) -> Mark:
    """A filled circle."""
    r = f"{radius:g}"
    arcs = f"a{r} {r} 0 1 0 {2 * radius:g} 0a{r} {r} 0 1 0 {-2 * radius:g} 0"
    return Mark(f"M{x - radius:.2f} {y:.2f}{arcs}Z", style, title)


def line(points: Sequence[tuple[float, float]], style: str, title: str = "") -> Mark:
    """Straight from point to point."""
    return Mark("M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in points), style, title)


def area(points: Sequence[tuple[float, float]], style: str) -> Mark:
    """What the points enclose."""
    return Mark(f"{line(points, style).path}Z", style)


def grid(scale: Scale, ticks: Sequence[float], *, top: float, bottom: float) -> Iterator[Mark]:
    """Upright lines at the ticks of a horizontal scale."""
    for tick in ticks:
        yield line([(scale(tick), top), (scale(tick), bottom)], "grid")
