"""What every page rests on: numbers that stay true, scales in order, and nothing but text."""

from __future__ import annotations

import html
import math
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import escape

from privet.charts.formatting import bound, left, spans
from privet.charts.page import CHARTS, Page
from privet.charts.scales import Scale, nice_ticks, ticks

POSITIVE = st.floats(min_value=1e-9, max_value=1e9) | st.floats(min_value=1e9, max_value=1e308)
PLACES = st.floats(-1e6, 1e6)


@given(POSITIVE)
def test_a_printed_bound_is_never_below_the_value(value: float) -> None:
    assert value <= float(bound(value)) <= value * 1.0101
    assert len(bound(value)) < 20


@given(POSITIVE)
def test_what_is_left_is_never_above_the_value(value: float) -> None:
    assert max(value - 0.001, 0) * 0.989 <= float(left(value)) <= value


@given(
    st.lists(st.floats(1e-9, 1e300), min_size=2, max_size=9),
    st.tuples(PLACES, PLACES),
    st.booleans(),
)
def test_a_scale_keeps_order_and_stays_within_its_ends(
    values: list[float], ends: tuple[float, float], logarithmic: bool
) -> None:
    start, end = sorted(ends)
    scale = Scale(min(values), max(values), start, end, logarithmic=logarithmic)
    places = [scale(value) for value in sorted(values)]
    assert all(one <= other for one, other in pairwise(places))
    if min(values) < max(values):
        assert (places[0], places[-1]) == pytest.approx((start, end), abs=1e-3)
    for outside in (-math.inf, math.inf, math.nan, 0.0):
        assert start - 1e-6 <= scale(outside) <= end + 1e-6


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_have_texts_of_their_own(low: float, more: float) -> None:
    levels = nice_ticks([low, low + more])
    if levels[1] - levels[0] < 1e-4 * max(map(abs, levels)):
        return
    told = ticks(levels, Scale(levels[0], levels[-1], 0.0, 100.0))
    assert len({tick.text for tick in told}) == len(told) or abs(levels[-1]) >= 1e6


@given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=20))
def test_ticks_enclose_what_is_drawn(values: list[float]) -> None:
    ticks = nice_ticks(values)
    slack = 1e-6 * (ticks[-1] - ticks[0])
    assert 2 <= len(ticks) <= 12
    assert ticks[0] <= min(values) + slack
    assert ticks[-1] >= max(values) - slack
    assert ticks == sorted(set(ticks))


@given(st.sets(st.integers(0, 300), min_size=1, max_size=60))
def test_spans_say_exactly_the_numbers(numbers: set[int]) -> None:
    told: set[int] = set()
    for part in spans(numbers).split(", "):
        first, _, last = part.partition("–")
        told |= set(range(int(first), int(last or first) + 1))
    assert told == numbers


TEMPLATE = '{% extends "page.html.jinja" %}{% block main %}<p>{{ text }}</p>{% endblock %}'


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("templates") / "some.html.jinja"
    path.write_text(TEMPLATE)
    return path


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_stays_text(template: Path, text: str) -> None:
    page = Page(template, scripts=(CHARTS,)).render(text=text)
    assert f"<p>{escape(text)}</p>" in page
    assert page.count("<script") == 1


def test_only_the_page_s_own_script_may_run(template: Path) -> None:
    page = html.unescape(Page(template, scripts=(CHARTS,)).render(text=""))
    assert "default-src 'none'; script-src 'sha256-" in page
    assert "unsafe" not in page
    without = Page(template).render(text="", style="p { color: red }")
    assert "<script" not in without
    assert "script-src" not in without
    assert "unsafe" not in without
