"""How the records lie over the silos, by label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from statistics import median

from privet.charts.chart import ROW_HEIGHT, Chart, ChartRow, Key, Point, Shape, box, hover, stacked
from privet.charts.formatting import counted
from privet.charts.scales import Tick, nice_ticks
from privet.record.run import Run, SiloRecord
from privet.reports.run.curves import natural

ROWS = 30
"""Up to this many silos get a named bar; more become columns, largest first."""
LABELS = 12
"""At most this many colours; the rarest labels beyond them are shown together."""

# Blue to straw, lightness rising all the way: the order survives colour blindness and grey print.
_RAMP = ((58, 104, 168), (58, 140, 152), (104, 176, 128), (176, 200, 104), (232, 208, 96))


@dataclass(frozen=True)
class Distribution:
    """`rows` for few silos, largest at full width; `chart` shows all of them, few or many."""

    summary: str
    rows: tuple[ChartRow, ...]
    chart: Chart


def distribution(run: Run) -> Distribution | None:
    """The records of every silo by label; None when the folder does not know its silos."""
    if not run.silos:
        return None
    labels, table = label_table(run)
    colours = [ramp(index, len(labels)) for index in range(len(labels))]
    few = len(run.silos) <= ROWS
    levels = nice_ticks([0.0, float(max(1, *(sum(row) for row in table)))], wanted=4)
    summary = _summary(run)
    plain = Chart(
        title="Records",
        description=f"Records by silo. {summary}",
        shapes=(),
        unit="by silo and label" if run.labels else "by silo",
        x_name="records",
        legend=tuple(
            Key(*each, "area") for each in zip(labels, colours, strict=True) if run.labels
        ),
    )
    if not few:
        return Distribution(summary, (), _columns(run.silos, labels, table, colours, levels, plain))
    largest = max(1, *(sum(row) for row in table))
    rows = _rows(run.silos, labels, table, colours, full=largest)
    ticks = tuple(Tick(100 * n / largest, f"{n:,.0f}") for n in levels if n <= largest)
    return Distribution(summary, rows, stacked(rows, replace(plain, x_ticks=ticks)))


def label_table(run: Run) -> tuple[list[str], list[list[int]]]:
    """Names of the labels, and for each silo the records of each; one column if unlabelled."""
    # All or none: a chart by label that leaves out a silo would show a distribution that is not
    # there.
    if not run.labels or any(silo.labels is None for silo in run.silos):
        return ["records"], [[silo.records] for silo in run.silos]
    total = Counter[str]()
    for silo in run.silos:
        total.update(silo.labels)
    order = {label: index for index, label in enumerate(run.labels)}
    known = sorted(total, key=lambda label: (order.get(label, len(order)), natural(label)))
    if len(known) <= LABELS:
        return known, [[(silo.labels or {}).get(label, 0) for label in known] for silo in run.silos]
    common = {label for label, _ in total.most_common(LABELS - 1)}
    kept = [label for label in known if label in common]
    table = [[(silo.labels or {}).get(label, 0) for label in kept] for silo in run.silos]
    rest = [
        sum((silo.labels or {}).values()) - sum(row)
        for silo, row in zip(run.silos, table, strict=True)
    ]
    names = [*kept, f"{len(known) - len(kept)} other labels"]
    return names, [[*row, other] for row, other in zip(table, rest, strict=True)]


def ramp(index: int, count: int) -> str:
    """The colour of label `index` of `count`, as #rrggbb."""
    place = (len(_RAMP) - 1) * (index / (count - 1) if count > 1 else 0.25)
    left = min(int(place), len(_RAMP) - 2)
    mixed = (
        round(a + (b - a) * (place - left))
        for a, b in zip(_RAMP[left], _RAMP[left + 1], strict=True)
    )
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def _summary(run: Run) -> str:
    sizes = [silo.records for silo in run.silos]
    held = f"{counted(sum(sizes), 'record')} in {counted(len(sizes), 'silo')}"
    if len(sizes) == 1:
        return f"{held}."
    return (
        f"{held}: the smallest holds {min(sizes):,}, the largest {max(sizes):,}, "
        f"half of them {median(sizes):,.0f} or fewer."
    )


def _rows(
    silos: Sequence[SiloRecord],
    labels: Sequence[str],
    table: Sequence[Sequence[int]],
    colours: Sequence[str],
    *,
    full: int,
) -> tuple[ChartRow, ...]:
    found = []
    for silo, row in zip(silos, table, strict=True):
        held = f"{silo.name}: {counted(silo.records, 'record')}"
        named = [f"{label}: {count}" for label, count in zip(labels, row, strict=True) if count]
        starts = accumulate(row, initial=0)
        parts = tuple(
            Shape("area", colour, [_part(100 * start / full, 100 * count / full)], label)
            for label, start, count, colour in zip(labels, starts, row, colours, strict=False)
            if count
        )
        chart = Chart(
            silo.name,
            f"{held}; {', '.join(named)}" if len(labels) > 1 else held,
            parts,
            hover=hover(
                at=[50],
                heads=[held],
                names=labels,
                styles=colours,
                texts=[[_shown(count)] for count in row],
            ),
            height=ROW_HEIGHT,
        )
        found.append(ChartRow(silo.name, chart, f"{silo.records:,}"))
    return tuple(found)


def _part(left: float, width: float) -> list[Point]:
    """A little narrower than its share, so that it ends where the next begins."""
    return box(left, 4, width - min(0.15, width / 3), 92)


def _shown(count: int) -> str | None:
    return f"{count:,}" if count else None


def _columns(
    silos: Sequence[SiloRecord],
    labels: Sequence[str],
    table: Sequence[Sequence[int]],
    colours: Sequence[str],
    levels: Sequence[float],
    plain: Chart,
) -> Chart:
    """Many silos side by side, the largest first, as one area for each label."""
    order = sorted(range(len(silos)), key=lambda index: -sum(table[index]))
    sums = [list(accumulate(table[index])) for index in order]
    top = levels[-1]
    return replace(
        plain,
        unit=f"{plain.unit}, largest silo first",
        description=plain.description.replace("by silo", "by silo, largest first", 1),
        shapes=tuple(
            Shape("area", colours[i], [_stairs([100 * row[i] / top for row in sums])], label)
            # Each area reaches from the ground to its sum; the lower ones are drawn over it.
            for i, label in reversed(list(enumerate(labels)))
        ),
        y_ticks=tuple(Tick(100 * level / top, f"{level:,.0f}") for level in levels),
        x_name="silos",
        hover=hover(
            at=[100 * (place + 0.5) / len(order) for place in range(len(order))],
            heads=[f"{silos[i].name}: {counted(silos[i].records, 'record')}" for i in order],
            names=labels,
            styles=colours,
            texts=[[_shown(table[i][j]) for i in order] for j in range(len(labels))],
        ),
    )


def _stairs(heights: Sequence[float]) -> list[Point]:
    """A staircase from the left to the right edge."""
    width = 100 / len(heights)
    corners = [
        ((index + side) * width, height) for index, height in enumerate(heights) for side in (0, 1)
    ]
    return [(0.0, 0.0), *corners, (100.0, 0.0)]
