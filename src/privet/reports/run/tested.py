"""Pictures of the result on test records: what one looks at rather than reads.

They are drawn from the counts in the summary, in bins: a curve's points lie a hundredth apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np

from privet.charts.chart import Chart, Key, Point, Shape, apart, box, hover, silo_style
from privet.charts.formatting import counted, decimal, shortened
from privet.charts.scales import Scale, Tick, nice_ticks
from privet.record.run import Run
from privet.record.summary import RecordedAgainst, RecordedConfusion, RecordedScores

_SHADES = 5
_MOST = 10**15
"""Of records, in a folder that may hold anything."""
_GROUPS = 10
"""Of probabilities, for the reliability."""
_SHARES = tuple(Tick(at, f"{at / 100:g}") for at in (0.0, 25.0, 50.0, 75.0, 100.0))
_GRID = tuple(range(0, 101, 5))
"""Per cent at which a pointer reads a curve."""
_EVEN = Shape("rule", "limit", [[(0, 0), (100, 100)]])
_LABEL = 12
"""Letters of a class below a chart."""


@dataclass(frozen=True)
class ConfusionTable:
    """The same as numbers: by true class, how many were taken for each."""

    classes: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def charts(run: Run) -> tuple[Chart, ...]:
    """Those that the summary has counts for; none of an encrypted or unfinished run."""
    return tuple(_charts(run))


def confusion_table(run: Run) -> ConfusionTable | None:
    """Counts by true and predicted class; None where there are none."""
    found = run.pictures.confusion if run.pictures else None
    if found is None or not _square(found.counts, len(found.classes)):
        return None
    named = zip(found.classes, found.counts, strict=True)
    rows = tuple((name, tuple(f"{count:,}" for count in row)) for name, row in named)
    return ConfusionTable(tuple(found.classes), rows)


def _charts(run: Run) -> Iterator[Chart]:
    if run.pictures is None:
        return
    scores = [each for each in run.pictures.scores if _usable(each)]
    if scores:
        yield _curves("ROC curve", scores, _roc, "false alarms", "recall", even=True)
        yield _curves("Precision and recall", scores, _precision, "recall", "precision")
        yield _reliability(scores)
    confusion, against = run.pictures.confusion, run.pictures.against
    if confusion and _square(confusion.counts, len(confusion.classes)):
        yield _confusion(confusion)
    if against and _square(against.counts, len(against.counts)):
        spread = against.high - against.low
        if 0 < spread < math.inf and any(map(any, against.counts)):
            yield _against(against)


def _usable(each: RecordedScores) -> bool:
    # A folder may hold anything.
    both = each.of_class, each.of_others
    lengths = len(each.of_class) == len(each.of_others) >= _GROUPS
    return lengths and all(sum(counts) > 0 and _counts(counts) for counts in both)


def _square(counts: Sequence[Sequence[int]], size: int) -> bool:
    return 0 < size == len(counts) and all(len(row) == size and _counts(row) for row in counts)


def _counts(found: Sequence[int]) -> bool:
    return all(0 <= count <= _MOST for count in found)


def _roc(each: RecordedScores) -> list[Point]:
    """False alarms and recall in per cent, from the highest threshold down."""
    hits, alarms = _cumulated(each)
    return [(100 * a / alarms[-1], 100 * h / hits[-1]) for h, a in zip(hits, alarms, strict=True)]


def _precision(each: RecordedScores) -> list[Point]:
    hits, alarms = _cumulated(each)
    found = [
        (100 * h / hits[-1], 100 * h / (h + a))
        for h, a in zip(hits, alarms, strict=True)
        if h + a > 0
    ]
    return [(0.0, found[0][1]), *found]


def _cumulated(each: RecordedScores) -> tuple[list[int], list[int]]:
    hits, alarms = (
        list(accumulate(reversed(counts), initial=0)) for counts in (each.of_class, each.of_others)
    )
    return hits, alarms


def _curves(
    title: str,
    scores: Sequence[RecordedScores],
    curve: object,
    across: str,
    up: str,
    *,
    even: bool = False,
) -> Chart:
    assert callable(curve)
    lines: list[list[Point]] = [curve(each) for each in scores]
    styles = [silo_style(place) for place in range(len(lines))]
    drawn = [
        Shape("line", f"curve {style}", [line], each.name)
        for line, style, each in zip(lines, styles, scores, strict=True)
    ]
    read = [_read(line) for line in lines]
    names = [shortened(each.name, 40) for each in scores]
    return Chart(
        title=title,
        description=_told(title, across, up, names, read),
        shapes=(*([_EVEN] if even else []), *reversed(drawn)),
        x_ticks=_SHARES,
        y_ticks=_SHARES,
        unit=f"{up} by {across}",
        x_name=across,
        named=True,
        legend=_legend(names, styles),
        hover=hover(
            at=[float(at) for at in _GRID],
            heads=[f"{across} {at / 100:g}" for at in _GRID],
            names=names,
            styles=styles,
            texts=[[f"{value / 100:.3f}" for value in values] for values in read],
        ),
    )


def _read(line: Sequence[Point]) -> list[float]:
    """The highest value at each place of the grid, straight between points."""
    x, y = (np.array(values) for values in zip(*line, strict=True))
    return [float(value) for value in np.interp(_GRID, x, y)]


def _told(
    title: str, across: str, up: str, names: Sequence[str], read: Sequence[Sequence[float]]
) -> str:
    middle = _GRID.index(20)
    said = (f"{name} {values[middle] / 100:.3f}" for name, values in zip(names, read, strict=True))
    return f"{title}: at {across} 0.2 the {up} is {'; '.join(said)}."


def _legend(names: Sequence[str], styles: Sequence[str]) -> tuple[Key, ...]:
    return tuple(Key(name, style) for name, style in zip(names, styles, strict=True))


def _reliability(scores: Sequence[RecordedScores]) -> Chart:
    """Of records that were given about the same probability, the share that was of the class."""
    names, styles = [shortened(each.name, 40) for each in scores], []
    shapes: list[Shape] = []
    texts: list[list[str | None]] = []
    for place, each in enumerate(scores):
        style = silo_style(place)
        found = [_group(each, group) for group in range(_GROUPS)]
        points = [point[:2] for point in found if point]
        shapes += [
            Shape("line", f"curve {style}", [points], names[place]),
            Shape("dot", f"cell {style}", [points], names[place]),
        ]
        styles.append(style)
        texts.append([f"{p[1] / 100:.3f} of {p[2]:,}" if p else None for p in found])
    at = [100 * (group + 0.5) / _GROUPS for group in range(_GROUPS)]
    said = "; ".join(
        f"{name} {values[-1] or 'no record'}" for name, values in zip(names, texts, strict=True)
    )
    return Chart(
        title="Reliability",
        description=f"Reliability: of records with a probability above 0.9, that share was of the "
        f"class: {said}.",
        shapes=(_EVEN, *shapes),
        x_ticks=_SHARES,
        y_ticks=_SHARES,
        unit="share of the class by probability",
        x_name="probability",
        named=True,
        legend=_legend(names, styles),
        hover=hover(
            at=at,
            heads=[f"probability {g / _GROUPS:g} to {(g + 1) / _GROUPS:g}" for g in range(_GROUPS)],
            names=names,
            styles=styles,
            texts=texts,
        ),
    )


def _group(each: RecordedScores, group: int) -> tuple[float, float, int] | None:
    """Mean probability and share of the class, in per cent, and the number of records."""
    bins = len(each.of_class)
    inside = range(bins * group // _GROUPS, bins * (group + 1) // _GROUPS)
    total = sum(each.of_class[i] + each.of_others[i] for i in inside)
    if not total:
        return None
    middle = sum((i + 0.5) * (each.of_class[i] + each.of_others[i]) for i in inside)
    return (
        100 * middle / bins / total,
        100 * sum(each.of_class[i] for i in inside) / total,
        total,
    )


def _confusion(found: RecordedConfusion) -> Chart:
    """A box for each pair, darker the more of the true class it has; the first class on top."""
    size = len(found.classes)
    side = 100 / size
    names = [shortened(name, 40) for name in found.classes]
    shares = [[count / max(sum(row), 1) for count in row] for row in found.counts]
    boxes: dict[int, list[list[Point]]] = {}
    for row, values in enumerate(shares):
        for column, share in enumerate(values):
            if shade := _shade(share):
                corner = box(column * side, 100 - (row + 1) * side, side, side)
                boxes.setdefault(shade, []).append(corner)
    middles = [(place + 0.5) * side for place in range(size)]
    ticks = [Tick(at, shortened(name, _LABEL)) for at, name in zip(middles, names, strict=True)]
    right = [f"{name} {shares[place][place]:.0%}" for place, name in enumerate(names)]
    return Chart(
        title="Confusion",
        description=f"Confusion: found of each class: {', '.join(right[:12])}.",
        shapes=tuple(Shape("area", f"shade{shade}", each) for shade, each in sorted(boxes.items())),
        x_ticks=tuple(apart(ticks, 18)),
        y_ticks=tuple(Tick(100 - tick.at, tick.text) for tick in apart(ticks, 6)),
        unit="true class at the left, predicted below",
        x_name="predicted",
        named=True,
        legend=_shade_keys("of the true class"),
        hover=hover(
            at=middles,
            heads=[f"predicted {name}" for name in names],
            names=[f"true {name}" for name in names],
            styles=["shade5"] * size,
            texts=[
                [f"{n:,} ({share:.0%})" for n, share in zip(row, values, strict=True)]
                for row, values in zip(found.counts, shares, strict=True)
            ],
        ),
        grid="",
    )


def _shade(share: float) -> int:
    return min(_SHADES, int(share * _SHADES + 0.999))


def _shade_keys(of: str) -> tuple[Key, ...]:
    said = ((1, f"up to {1 / _SHADES:.0%} {of}"), (_SHADES, f"above {1 - 1 / _SHADES:.0%}"))
    return tuple(Key(name, f"shade{shade}", "area") for shade, name in said)


def _against(found: RecordedAgainst) -> Chart:
    """A box for each cell, darker the more records it has; on the line they are equal."""
    size, unit = len(found.counts), f" {found.unit}" if found.unit else ""
    side, most = 100 / size, max(max(row) for row in found.counts)
    boxes: dict[int, list[list[Point]]] = {}
    for row, counts in enumerate(found.counts):
        for column, count in enumerate(counts):
            if count:
                corner = box(column * side, row * side, side, side)
                boxes.setdefault(_shade((count / most) ** 0.5), []).append(corner)
    scale = Scale(found.low, found.high, 0.0, 100.0)
    levels = nice_ticks([found.low, found.high])
    inside = (level for level in levels if found.low <= level <= found.high)
    ticks = tuple(Tick(scale(level), f"{level:g}") for level in inside)
    total = sum(map(sum, found.counts))
    edges = np.linspace(found.low, found.high, size + 1)
    return Chart(
        title="Predicted against true",
        description=f"Predicted against true values of {counted(total, 'test record')}, from "
        f"{decimal(found.low)} to {decimal(found.high)}{unit}.",
        shapes=(
            *(Shape("area", f"shade{shade}", each) for shade, each in sorted(boxes.items())),
            _EVEN,
        ),
        x_ticks=tuple(apart(ticks, 18)),
        y_ticks=ticks,
        unit=f"true at the left, predicted below{f', in{unit}' if unit else ''}",
        x_name=f"predicted{unit}",
        named=True,
        legend=(Key("few records", "shade1", "area"), Key("most records", "shade5", "area")),
        hover=hover(
            at=[(column + 0.5) * side for column in range(size)],
            heads=[f"predicted {a:.4g} to {b:.4g}{unit}" for a, b in pairwise(edges)],
            names=["records", "true, mean"],
            styles=["shade5", "limit"],
            texts=[
                [f"{n:,}" if n else None for n in map(sum, zip(*found.counts, strict=True))],
                [_mean_true(found, edges, column, unit) for column in range(size)],
            ],
        ),
    )


def _mean_true(found: RecordedAgainst, edges: np.ndarray, column: int, unit: str) -> str | None:
    counts = np.array([row[column] for row in found.counts])
    if not counts.sum():
        return None
    return f"{float(counts @ (edges[1:] + edges[:-1]) / 2 / counts.sum()):.4g}{unit}"
