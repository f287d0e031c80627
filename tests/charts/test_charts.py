"""A chart is described once: pages, paper and pictures show the same of it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privet.charts import looks, svg
from privet.charts.chart import (
    Chart,
    ChartRow,
    Key,
    Series,
    Shape,
    box,
    line_chart,
    stacked,
    unbroken,
)
from privet.charts.pictures import picture
from privet.charts.scales import Tick

HOSTILE = '"><script>window.hacked=1</script>'
VALUES = st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=12)


class Tags(HTMLParser):
    def __init__(self, source: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def tags(element: svg.Element) -> list[tuple[str, dict[str, str | None]]]:
    return Tags(svg.markup(element)).found


def lines(values: list[float | None], **more: Any) -> Chart:
    rounds = list(range(len(values)))
    return line_chart(title="T", rounds=rounds, series=[Series("a", values, "total")], **more)


@given(values=VALUES, sparse=st.booleans())
def test_a_line_has_every_value_once_and_a_gap_where_there_is_none(
    values: list[float | None], sparse: bool
) -> None:
    across = [float(place) for place in range(len(values))]
    parts = unbroken(across, values, sparse=sparse)
    known = [(x, y) for x, y in zip(across, values, strict=True) if y is not None]
    assert [point for part in parts for point in part] == known
    if sparse:
        assert len(parts) == bool(known)
    else:
        assert all(b == a + 1 for part in parts for (a, _), (b, _) in pairwise(part))


@given(values=VALUES)
def test_what_is_drawn_lies_within_the_frame_and_what_is_read_is_what_was_given(
    values: list[float | None],
) -> None:
    chart = lines(values)
    for shape in chart.shapes:
        assert all(0 <= place <= 100 for part in shape.parts for point in part for place in point)
    read = json.loads(chart.hover)
    assert [text is None for text in read["texts"][0]] == [value is None for value in values]
    assert read["heads"] == [f"Round {number}" for number in range(len(values))]


def test_a_path_is_short_and_a_lone_value_is_a_dot() -> None:
    corner = Shape("area", "band", [box(10, 20, 30, 40)])
    lone = Shape("line", "curve total", [[(50.0, 50.0)]])
    found = [a["d"] for tag, a in tags(svg.svg(Chart("", "", (corner, lone)))) if tag == "path"]
    assert found == ["M30 96H120V192H30Z", "M150 120h0"]


def test_names_stay_text_and_no_element_has_a_style_attribute() -> None:
    shapes = (Shape("dot", "point s0", [[(1, 2)]], HOSTILE), Shape("area", "#123456", [[(0, 0)]]))
    chart = Chart(
        HOSTILE, HOSTILE, shapes, (Tick(0, HOSTILE),), unit=HOSTILE, legend=(Key(HOSTILE, "s1"),)
    )
    rows = stacked([ChartRow(HOSTILE, chart, HOSTILE)], chart)
    for drawn in (chart, rows):
        found = tags(svg.figure(drawn))
        assert {tag for tag, _ in found} <= {
            "figure", "figcaption", "span", "div", "svg", "g", "text", "title", "line", "path",
            "circle", "ul", "li",
        }  # fmt: skip
        assert not any(name == "style" or name[:2] == "on" for _, attrs in found for name in attrs)
        assert picture([drawn], "png", dpi=30) == picture([drawn], "png", dpi=30)


@pytest.mark.parametrize("style", ["total", "interval pooled s1", "point s3 dash2", "end silo"])
def test_a_page_and_paper_agree_on_a_style(style: str) -> None:
    rules = dict(re.findall(r"\.([\w]+)\{(.*)\}", looks.style_sheet()))
    said: dict[str, str] = {}
    for word in rules:  # in the order of the style sheet, where a later rule wins
        if word in style.split():
            said |= dict(each.split(":") for each in rules[word].split(";") if each)
    found = looks.look(style)
    assert said.get("--c", "var(--s0)") == f"var(--{found.colour})"
    assert float(said.get("--w", 1.5)) == found.width
    assert said.get("--d", "none") == found.dash
    assert ("--f" in said) is bool(found.hollow)


def test_every_style_has_a_colour_of_the_style_sheet() -> None:
    for word in looks.LOOKS:
        assert re.fullmatch("#[0-9a-f]{6}", looks.colour(looks.look(word)))


def test_rows_lie_above_each_other_in_their_order() -> None:
    rows = [
        ChartRow(name, Chart(name, "", (Shape("dot", "s0", [[(5, 50)]]),)), "") for name in "abcd"
    ]
    drawn = stacked(rows, Chart("all", "", ()))
    assert [shape.parts for shape in drawn.shapes] == [[[(5, y)]] for y in (87.5, 62.5, 37.5, 12.5)]
    assert [(tick.at, tick.text) for tick in drawn.y_ticks] == [
        (87.5, "a"), (62.5, "b"), (37.5, "c"), (12.5, "d"),
    ]  # fmt: skip
