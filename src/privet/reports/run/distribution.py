"""How the records lie over the silos, by label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import median

from privet.charts.formatting import counted
from privet.charts.lines import SIDE, hover
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
class Part:
    """A piece of a bar; `share` is in per cent of the largest silo."""

    label: str
    count: int
    share: float
    colour: str


@dataclass(frozen=True)
class Bar:
    name: str
    records: int
    parts: tuple[Part, ...]
    description: str
    hover: str


@dataclass(frozen=True)
class LabelArea:
    """The area of one label, painted from the largest sum down to the first label."""

    label: str
    path: str
    colour: str


@dataclass(frozen=True)
class Distribution:
    """`bars` for few silos; else `layers`, whose ticks and hover belong to all columns."""

    summary: str
    legend: tuple[tuple[str, str], ...]
    bars: tuple[Bar, ...]
    layers: tuple[LabelArea, ...]
    y_ticks: tuple[Tick, ...]
    hover: str


def distribution(run: Run) -> Distribution | None:
    """The records of every silo by label; None when the folder does not know its silos."""
    if not run.silos:
        return None
    labels, table = label_table(run)
    colours = [ramp(index, len(labels)) for index in range(len(labels))]
    few = len(run.silos) <= ROWS
    layers, ticks, tips = ((), (), "") if few else _columns(run.silos, labels, table, colours)
    return Distribution(
        summary=_summary(run),
        legend=tuple(zip(labels, colours, strict=True)) if run.labels else (),
        bars=_bars(run.silos, labels, table, colours) if few else (),
        layers=layers,
        y_ticks=ticks,
        hover=tips,
    )


def label_table(run: Run) -> tuple[list[str], list[list[int]]]:
    """Names of the labels, and for each silo the records of each; one column if unlabelled."""
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


def _bars(
    silos: Sequence[SiloRecord],
    labels: Sequence[str],
    table: Sequence[Sequence[int]],
    colours: Sequence[str],
) -> tuple[Bar, ...]:
    largest = max(1, *(sum(row) for row in table))
    return tuple(
        Bar(
            name=silo.name,
            records=silo.records,
            parts=tuple(
                Part(label, count, 100 * count / largest, colour)
                for label, count, colour in zip(labels, row, colours, strict=True)
                if count
            ),
            description=_row_text(silo, labels, row),
            hover=_row_hover(silo, labels, row, colours),
        )
        for silo, row in zip(silos, table, strict=True)
    )


def _row_text(silo: SiloRecord, labels: Sequence[str], row: Sequence[int]) -> str:
    held = f"{silo.name}: {counted(silo.records, 'record')}"
    if len(labels) == 1:
        return held
    return f"{held}; " + ", ".join(
        f"{label}: {count}" for label, count in zip(labels, row, strict=True) if count
    )


def _row_hover(
    silo: SiloRecord, labels: Sequence[str], row: Sequence[int], colours: Sequence[str]
) -> str:
    return hover(
        at=[50],
        heads=[f"{silo.name}: {counted(silo.records, 'record')}"],
        names=labels,
        styles=colours,
        texts=[[_shown(count)] for count in row],
    )


def _shown(count: int) -> str | None:
    return f"{count:,}" if count else None


def _columns(
    silos: Sequence[SiloRecord],
    labels: Sequence[str],
    table: Sequence[Sequence[int]],
    colours: Sequence[str],
) -> tuple[tuple[LabelArea, ...], tuple[Tick, ...], str]:
    """Many silos side by side, the largest first, as one area for each label."""
    order = sorted(range(len(silos)), key=lambda index: -sum(table[index]))
    sums = [list(accumulate(table[index])) for index in order]
    levels = nice_ticks([0.0, float(max(1, *(row[-1] for row in sums)))], wanted=4)
    layers = tuple(
        LabelArea(label, _steps([row[i] / levels[-1] for row in sums]), colours[i])
        for i, label in reversed(list(enumerate(labels)))
    )
    tips = hover(
        at=[100 * (place + 0.5) / len(order) for place in range(len(order))],
        heads=[f"{silos[i].name}: {counted(silos[i].records, 'record')}" for i in order],
        names=labels,
        styles=colours,
        texts=[[_shown(table[i][j]) for i in order] for j in range(len(labels))],
    )
    ticks = tuple(Tick(100 * level / levels[-1], f"{level:,.0f}") for level in levels)
    return layers, ticks, tips


def _steps(heights: Sequence[float]) -> str:
    """A closed staircase from the left to the right edge of the square."""
    width = SIDE / len(heights)
    stairs = "".join(
        f"V{(1 - height) * SIDE:.5g}H{(index + 1) * width:.5g}"
        for index, height in enumerate(heights)
    )
    return f"M0 {SIDE}{stairs}V{SIDE}Z"
