"""The figures of a comparison as texts, the same in the terminal and on the page."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from privet.charts.formatting import NOTHING, bound, duration, scientific, size, spans
from privet.metrics import Metric
from privet.reports.compare.comparison import Comparison, shown
from privet.reports.compare.entries import ComparisonEntry


def headings(comparison: Comparison) -> tuple[str, ...]:
    """Of the columns that `figures` fills, after the name."""
    delta = ("delta",) if len(_deltas(comparison)) > 1 else ()
    reached = () if comparison.target is None else (f"rounds to {comparison.target:g}",)
    return (_heading(comparison.metric), "epsilon", *delta, *reached, "seeds", "time", "bytes")


def figures(comparison: Comparison, entry: ComparisonEntry) -> tuple[str, ...]:
    """A text for each heading."""
    delta = (scientific(entry.delta),) if len(_deltas(comparison)) > 1 else ()
    reached = () if comparison.target is None else (_reached(entry),)
    return (
        _value(entry),
        bound(entry.epsilon) if entry.private else "none",
        *delta,
        *reached,
        spans(entry.seeds, most=4),
        duration(entry.seconds),
        _traffic(entry),
    )


def legend(comparison: Comparison) -> Iterator[str]:
    """How to read the figures."""
    deltas = _deltas(comparison)
    if deltas:
        at = f", at delta = {scientific(deltas[0])}" if len(deltas) == 1 else ""
        yield f"Epsilon by the ledger, in the silo that spent most{at}."
    if any(entry.half_width is not None for entry in comparison.entries):
        yield "±: 95 % confidence interval of the mean over seeds, by Student's t."
    if any(len(entry.seeds) > 1 for entry in comparison.entries):
        yield "Time and bytes (up and down) of one run, mean over the seeds."


def settings(comparison: Comparison, entry: ComparisonEntry) -> tuple[str, ...]:
    """The values of the settings that differ."""
    return tuple(shown(entry, key) for key in comparison.differs)


def to_csv(comparison: Comparison) -> str:
    """A row for each entry: plain numbers, the settings that differ, and empty for nothing."""
    out = io.StringIO()
    # The module's own default ends lines as Windows does.
    writer = csv.writer(out, lineterminator="\n")
    name = comparison.metric.name
    names = [
        "name", "folder", "kind", "task", *comparison.differs, "seeds", name,
        f"{name}_half_width", "epsilon", "delta", "rounds_to_target", "seconds", "bytes_up",
        "bytes_down",
    ]  # fmt: skip
    writer.writerow(names)
    for entry in comparison.entries:
        writer.writerow(_plain(comparison, entry))
    return out.getvalue()


def _plain(comparison: Comparison, entry: ComparisonEntry) -> Iterator[object]:
    yield from (entry.name, entry.source, entry.kind, entry.task)
    yield from (entry.settings.get(key) for key in comparison.differs)
    yield _joined(entry.seeds)
    yield from (entry.value, entry.half_width, entry.epsilon, entry.delta)
    yield _joined(entry.rounds_to_target or ())
    yield from (entry.seconds, entry.bytes_up, entry.bytes_down)


def _joined(values: Sequence[int | None]) -> str:
    return " ".join("never" if value is None else str(value) for value in values)


def _deltas(comparison: Comparison) -> list[float]:
    return sorted({entry.delta for entry in comparison.entries if entry.delta is not None})


def _traffic(entry: ComparisonEntry) -> str:
    if entry.bytes_up is None or entry.bytes_down is None:
        return NOTHING
    return size(entry.bytes_up + entry.bytes_down)


def _heading(metric: Metric) -> str:
    return f"{metric.label} ({metric.unit})" if metric.unit else metric.label


def _value(entry: ComparisonEntry) -> str:
    if entry.value is None:
        return NOTHING
    of = entry.metric.number
    return of(entry.value) + ("" if entry.half_width is None else f" ± {of(entry.half_width)}")


def _reached(entry: ComparisonEntry) -> str:
    """The range over seeds, and how many of them got there at all."""
    tried = entry.rounds_to_target or ()
    known = [number for number in tried if number is not None]
    if not known:
        return "never"
    low, high = min(known), max(known)
    span = f"{low}" if low == high else f"{low}–{high}"
    return span if len(known) == len(tried) else f"{span} ({len(known)} of {len(tried)})"
