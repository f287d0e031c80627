"""A chart as elements of a page.

Text, rules and dots stand in per cent of a frame that has no units of its own, so that they keep
their size at any width; lines and areas lie in a frame within it that is stretched. No element has
a style attribute, which a content security policy would have to allow.

Elements are lists, `[tag, attributes, child, ...]`: a page takes them as markup, and a script that
writes nothing but text and elements takes them as JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from markupsafe import Markup, escape

from privet.charts.chart import Chart, ChartRow, Key, Kind, Point, Shape, axis_break, box
from privet.charts.looks import colour, light, look
from privet.charts.scales import Tick

Element = list[Any]

WIDTH = 300
"""Units of the stretched frame: about its pixels on paper, where strokes are stretched with it."""
_ON_PAPER = 9
"""Pixels of text where no style sheet reaches."""
_LETTERS = 23
"""Of a name at the side of a chart; pointing at it tells the whole."""


def element(tag: str, *children: Any, **attributes: Any) -> Element:
    """An element; attributes that are None are left out, and `class_` is class."""
    named = {name.rstrip("_").replace("_", "-"): v for name, v in attributes.items()}
    return [tag, {name: str(v) for name, v in named.items() if v is not None}, *children]


def markup(of: Element | str) -> Markup:
    """The element as text of a page, with all that it says escaped."""
    if isinstance(of, str):
        return escape(of)
    tag, attributes, *children = of
    given = "".join(f' {name}="{escape(value)}"' for name, value in attributes.items())
    inside = "".join(map(markup, children))
    return Markup(f"<{tag}{given}>{inside}</{tag}>")  # noqa: S704 - escaped, all of it


def figure(chart: Chart) -> Element:
    """The chart with its title and legend."""
    unit = [" ", element("span", chart.unit, class_="unit")] if chart.unit else []
    title = element("figcaption", chart.title, *unit)
    drawn = element(
        "div", frame(chart), class_=f"chart {side(chart.y_ticks)}" + " named" * chart.named
    )
    return element("figure", title, drawn, *([legend(chart.legend)] if chart.legend else []))


def frame(chart: Chart, *, label: str = "") -> Element:
    """The chart as a pointer and the arrow keys read it; with a label, a script has the words."""
    if not (chart.hover or label):
        return element("div", svg(chart), class_="plot")
    said = label or f"{chart.title}: read values with the arrow keys"
    given = {"tabindex": 0, "role": "group", "aria_label": said, "data_hover": chart.hover or None}
    return element("div", svg(chart), class_="plot", **given)


def track(row: ChartRow) -> Element:
    """A row's chart, which is read by itself."""
    of, drawn = row.chart, svg(row.chart)
    drawn[1] = {"height": str(of.height), "aria-hidden": "true"}
    given = {"tabindex": 0, "role": "img", "aria_label": of.description, "data_hover": of.hover}
    return element("div", drawn, class_="track", **given)


def side(found: Sequence[Tick]) -> str:
    """The class that leaves room for the texts beside a chart."""
    longest = max((len(_cut(tick.text)) for tick in found), default=0)
    return f"side{min(-(-longest // 5), 5)}"


def svg(chart: Chart) -> Element:
    """The frame and everything in it."""
    stretched = [_path(shape, chart.height) for shape in chart.shapes if shape.kind in _PATHS]
    lying = {"viewBox": f"0 0 {WIDTH} {chart.height}", "preserveAspectRatio": "none"}
    return element(
        "svg",
        axis("y", chart.y_ticks, ruled="y" in chart.grid, broken=chart.breaks[1]),
        axis("x", chart.x_ticks, ruled="x" in chart.grid, broken=chart.breaks[0]),
        *([["svg", {**lying, "aria-hidden": "true"}, *stretched]] if stretched else []),
        *(each for shape in chart.shapes if shape.kind not in _PATHS for each in _placed(shape)),
        *([_name(chart)] if chart.named else []),
        role="img",
        aria_label=chart.description,
        height=chart.height,
    )


def axis(
    way: str, found: Sequence[Tick], *, ruled: bool | None = None, broken: float | None = None
) -> Element:
    """Ticks below ("x") or beside ("y") the frame; those beside have rules if nothing is said."""
    anchor = "end" if way == "y" else "middle"
    texts = {"text_anchor": anchor, "font_size": _ON_PAPER, "font_family": "sans-serif"}
    lines = way == "y" if ruled is None else ruled
    inside = [each for tick in found for each in _tick(way, tick, ruled=lines)]
    inside += [] if broken is None else _placed(axis_break(way, broken))
    ink = light()["muted"]
    return element("g", *inside, class_=f"ticks {way}", aria_hidden="true", fill=ink, **texts)


def _tick(way: str, tick: Tick, *, ruled: bool) -> Iterator[Element]:
    at, across = (_per_cent(100 - tick.at), "y") if way == "y" else (_per_cent(tick.at), "x")
    other = "x" if across == "y" else "y"
    if ruled:
        ends = {f"{across}1": at, f"{across}2": at, f"{other}1": "0%", f"{other}2": "100%"}
        yield element("line", class_="grid", **ends, **_drawn("rule", "grid"))
    whole = [element("title", tick.text)] if len(tick.text) > _LETTERS else []
    place = {"x": "0%", "y": at, "dx": "-8", "dy": ".35em"}
    below = {"x": at, "y": "100%", "dy": "20"}
    yield element("text", _cut(tick.text), *whole, **(place if way == "y" else below))


def _name(chart: Chart) -> Element:
    """What the lower axis is of."""
    look_of = {"text_anchor": "middle", "font_size": _ON_PAPER, "font_family": "sans-serif"}
    return element(
        "text", chart.x_name, x="50%", y="100%", dy="36", fill=light()["muted"], **look_of
    )


def legend(keys: Sequence[Key], **more: Any) -> Element:
    """A list of names, each with a sample of its style."""
    entries = (
        element("li", sample(key), element("span", key.name), data_style=key.style) for key in keys
    )
    return element("ul", *entries, class_="legend", **more)


def sample(key: Key) -> Element:
    """A piece of what an entry of a legend stands for."""
    height, (low, high) = 12, key.reach
    places: dict[Kind, list[Point]] = {
        "line": [(0, 50), (100, 50)],
        "rule": [(50, 0), (50, 100)],
        "area": box(20, low, 60, high - low),
        "dot": [(50, 50)],
    }
    shape = Shape(key.kind, key.style, [places[key.kind]])
    drawn = [_path(shape, height, width=20)] if key.kind in _PATHS else list(_placed(shape))
    for each in drawn:  # its look comes from the class around it, and it is no part of the chart
        if "class" in each[1]:
            each[1]["class"] = "trace" if key.kind == "line" else "sample"
    return element(
        "svg", *drawn, class_=f"key {key.style}", width=20, height=height, aria_hidden="true"
    )


_PATHS = ("line", "area")


def _path(shape: Shape, height: int, *, width: int = WIDTH) -> Element:
    closed = shape.kind == "area"
    d = "".join(_line(part, width, height) + "Z" * closed for part in shape.parts)
    return element(
        "path", *_title(shape), class_=_class(shape), d=d, **_drawn(shape.kind, shape.style)
    )


def _line(part: Sequence[Point], width: int, height: int) -> str:
    """A path in as few letters as it takes; a lone point becomes a dot by its round line cap."""
    d = before_x = before_y = ""
    for x, y in part:
        a, b = f"{x * width / 100:.5g}", f"{(100 - y) * height / 100:.5g}"
        if not d:
            d = f"M{a} {b}"
        elif a == before_x and b != before_y:
            d += f"V{b}"
        elif b == before_y and a != before_x:
            d += f"H{a}"
        else:
            d += f"L{a} {b}"
        before_x, before_y = a, b
    return d + "h0" * (len(part) == 1)


def _placed(shape: Shape) -> Iterator[Element]:
    """Rules and dots, which are not stretched."""
    given = {"class_": _class(shape), "data_mark": shape.mark, **_drawn(shape.kind, shape.style)}
    for part in shape.parts:
        if shape.kind == "rule":
            (x1, y1), (x2, y2) = ((_per_cent(x), _per_cent(100 - y)) for x, y in part)
            yield element("line", *_title(shape), x1=x1, x2=x2, y1=y1, y2=y2, **given)
            continue
        for x, y in part:
            yield element("circle", *_title(shape), cx=_per_cent(x), cy=_per_cent(100 - y), **given)


def _class(shape: Shape) -> str | None:
    """None for a style that is but a colour: no style sheet has more to say."""
    if shape.style.startswith("#"):
        return None
    return shape.style + " gone" * shape.hidden


def _title(shape: Shape) -> list[Element]:
    return [element("title", shape.name)] if shape.name else []


def _drawn(kind: Kind, style: str) -> dict[str, Any]:
    """What a style sheet overrides where there is one."""
    of = look(style)
    ink, outline = colour(of), kind in ("line", "rule") or (kind == "area" and of.hollow)
    if outline:
        dash = None if of.dash == "none" else of.dash
        found = {"fill": "none", "stroke": ink, "stroke_width": of.width, "stroke_dasharray": dash}
        return {**found, "stroke_opacity": None if of.opacity == 1 else of.opacity}
    # Filled with the ground and not left open, or the line would be seen through the dot.
    fill = light()["sheet"] if of.hollow else ink
    found = {"fill": fill, "stroke": ink if of.hollow else None, "fill_opacity": of.opacity}
    if of.opacity == 1:
        del found["fill_opacity"]
    return {**found, "r": of.radius if kind == "dot" else None}


def _cut(text: str) -> str:
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}…"


def _per_cent(place: float) -> str:
    return f"{round(place, 3):g}%"
