"""What canaries show, as pictures: lower bounds beside claims, and the tests of the law."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from privet.privacy.audit.conformance import Check, Conformance
from privet.simulations.audit.page.drawing import WIDTH, Label, Mark, Picture, dot, grid, line
from privet.simulations.pages.formatting import bound, decimal, scientific, shortened
from privet.simulations.pages.scales import Scale, decades, nice_ticks

_NAMES, _RIGHT, _TOP, _ROW = 148.0, WIDTH - 14, 6.0, 19.0
_MOST_ROWS = 24
_LETTERS = 23
_LEAST_P = 1e-16


@dataclass(frozen=True)
class Bound:
    """Epsilon of `name` is claimed to be at most `claim`, and an attack shows at least `shown`."""

    name: str
    claim: float
    shown: float
    correct: int
    guesses: int
    canaries: int


def bounds_picture(bounds: Sequence[Bound]) -> Picture:
    """A row for each silo, with the last for all; of many, those nearest to their claims."""
    *silos, together = bounds
    nearest = sorted(silos, key=lambda each: each.claim - each.shown)[:_MOST_ROWS]
    rows = [*(each for each in silos if each in nearest), together]
    finite = [each.claim for each in rows if math.isfinite(each.claim)]
    ticks = nice_ticks([0.0, *finite, *(each.shown for each in rows)])
    scale = Scale(0.0, ticks[-1], _NAMES, _RIGHT)
    bottom = _TOP + _ROW * len(rows)
    marks = [*grid(scale, ticks, top=_TOP, bottom=bottom)]
    for number, each in enumerate(rows):
        marks += _bound_marks(each, scale, _TOP + _ROW * (number + 0.5))
    refuted = sum(each.shown > each.claim for each in rows)
    return Picture(
        "Lower bound against claim",
        f"Of {len(rows)} rows, {refuted} show more than is claimed. {_worst(together)}",
        bottom + 34,
        tuple(marks),
        (*_names([each.name for each in rows]), *_axis(scale, ticks, bottom, "epsilon")),
        (("dot", "at least, 95 % confidence"), ("claim", "claimed")),
    )


def tests_picture(found: Conformance) -> Picture:
    """A row for each test of the claimed law; what lies beyond the line refutes it."""
    checks = sorted(found.checks, key=lambda check: check.p_value)
    first = found.level / len(checks)
    least = min(first, max(checks[0].p_value, _LEAST_P))
    ticks = decades(least, 1.0)
    scale = Scale(min(least, ticks[0]), 1.0, _RIGHT - 6, _NAMES + 6, logarithmic=True)
    bottom = _TOP + _ROW * len(checks)
    marks = [
        *grid(scale, ticks, top=_TOP, bottom=bottom),
        line([(scale(first), _TOP), (scale(first), bottom)], "limit"),
        *_test_marks(checks, found, scale),
    ]
    axis = _axis(scale, ticks, bottom, "p-value")
    return Picture(
        "Tests of the mechanism's law",
        f"{len(found.failed)} of {len(checks)} tests refute the claimed mechanism.",
        bottom + 34,
        tuple(marks),
        (*_names([check.name for check in checks]), *axis),
        (("dot", "a test"), ("bad", "refutes the claim"), ("limit", f"line at {first:.1g}")),
    )


def _bound_marks(each: Bound, scale: Scale, y: float) -> Iterator[Mark]:
    x, claim = scale(each.shown), scale(each.claim)
    yield line([(scale(0.0), y), (x, y)], "link")
    told = f"{each.name}: at least {decimal(each.shown, digits=2)}, claimed {bound(each.claim)}"
    if math.isfinite(each.claim):
        yield line([(claim, y - 6), (claim, y + 6)], "claim", told)
    yield dot(x, y, "bad" if each.shown > each.claim else "dot", told)


def _test_marks(checks: Sequence[Check], found: Conformance, scale: Scale) -> Iterator[Mark]:
    for number, check in enumerate(checks):
        y = _TOP + _ROW * (number + 0.5)
        x = scale(max(check.p_value, _LEAST_P))
        yield line([(scale(1.0), y), (x, y)], "link")
        told = f"{check.name}: p = {check.p_value:.2g}"
        yield dot(x, y, "bad" if check in found.failed else "dot", told)


def _names(names: Sequence[str]) -> Iterator[Label]:
    for number, name in enumerate(names):
        y = _TOP + _ROW * (number + 0.5) + 4
        yield Label(_NAMES - 8, y, shortened(name, _LETTERS), "end", "name")


def _axis(scale: Scale, ticks: Sequence[float], bottom: float, name: str) -> Iterator[Label]:
    for tick in ticks:
        yield Label(scale(tick), bottom + 15, scientific(tick), "middle")
    yield Label((_NAMES + _RIGHT) / 2, bottom + 31, name, "middle")


def _worst(each: Bound) -> str:
    return (
        f"{each.name}: at least {decimal(each.shown, digits=2)}, claimed {bound(each.claim)}: "
        f"{each.correct} of {each.guesses} guesses right, {each.canaries:,} canaries."
    )
