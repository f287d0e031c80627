"""Figures as geometry. Every mark names a style, which the template draws with a light colour.

A PDF is made without the page's style sheet inside of figures; on a screen that sheet has its own
colours for the same names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from privet.simulations.pages.scales import Scale

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
    """A text beside `x` at `y`."""

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
