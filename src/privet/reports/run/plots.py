"""The charts as PNG files, for papers and slides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from privet.charts.formatting import scientific
from privet.charts.pictures import COLOURS, INK, drawing, in_legend, saved
from privet.files import write_whole
from privet.record.run import Run
from privet.reports.run.curves import (
    FEW,
    OWN_RECORDS,
    in_order,
    own_means,
    target_epsilon,
    without_kept,
)
from privet.reports.run.distribution import ROWS, label_table, ramp
from privet.reports.run.verdict import finite_guarantee

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ACCENT = "#1c6b45"
_DASHES = ("-", "--", ":")
_LONGEST_NAME = 24


def write_plots(run: Run, folder: Path) -> tuple[Path, ...]:
    """Write accuracy.png, epsilon.png and silos.png; those with nothing to show are left out.

    Matplotlib is imported here and not before: reading or rendering a run does not need it.
    """
    folder.mkdir(exist_ok=True)
    with drawing():
        figures = {
            "accuracy": _learning(run),
            "epsilon": _epsilon(run),
            "silos": _silos(run),
        }
        return tuple(
            _save(figure, folder / f"{name}.png") for name, figure in figures.items() if figure
        )


def _save(figure: Figure, path: Path) -> Path:
    write_whole(path, saved(figure, "png", dpi=110))
    return path


def _figure(columns: int, *, height: float = 3.6) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8 * columns if columns > 1 else 7.2, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    return figure, list(axes)


def _learning(run: Run) -> Figure | None:
    rounds = [entry.number for entry in run.rounds]
    shown = {
        "Accuracy": [entry.accuracy for entry in run.rounds],
        "Loss": [entry.loss for entry in run.rounds],
    }
    own = {name: own_means(run, name.lower()) for name in shown}
    known = [name for name in shown if any(v is not None for v in (*shown[name], *own[name]))]
    if not known:
        return None
    figure, axes = _figure(len(known))
    for axis, name in zip(axes, known, strict=True):
        axis.plot(rounds, _gaps(shown[name]), color=_ACCENT, linewidth=2, marker=_dot(rounds))
        _own_line(axis, rounds, own[name])
        axis.set(title=name, xlabel="round")
    return figure


def _own_line(axis: Axes, rounds: Sequence[int], values: Sequence[float | None]) -> None:
    """The mean on the silos' own records, over the rounds in which it was measured."""
    places = [(number, v) for number, v in zip(rounds, values, strict=True) if v is not None]
    if not places:
        return
    x, y = zip(*places, strict=True)
    axis.plot(x, y, color=INK, linestyle="--", marker=_dot(x), label=OWN_RECORDS)
    axis.legend(fontsize="small")


def _epsilon(run: Run) -> Figure | None:
    promise, run = finite_guarantee(run), without_kept(run)
    if promise is None or not run.rounds:
        return None
    figure, (axis,) = _figure(1)
    rounds = [entry.number for entry in run.rounds]
    highest = _gaps([max(e.silo_epsilon.values(), default=None) for e in run.rounds])
    names = in_order(run, (name for entry in run.rounds for name in entry.silo_epsilon))
    if len(names) <= FEW:
        _silo_lines(axis, run, names)
    else:
        lowest = _gaps([min(e.silo_epsilon.values(), default=None) for e in run.rounds])
        axis.fill_between(rounds, lowest, highest, color=_ACCENT, alpha=0.15, linewidth=0)
    axis.plot(rounds, highest, color=_ACCENT, linewidth=2.2, label="highest", marker=_dot(rounds))
    target = target_epsilon(run)
    if target is not None:
        axis.axhline(target, color=INK, linestyle="--", linewidth=1, label=f"target {target:g}")
    axis.set(title=f"Epsilon spent, delta {scientific(promise.delta)}", xlabel="round")
    axis.set_ylim(bottom=0)
    axis.legend(fontsize="small", ncols=2)
    return figure


def _silo_lines(axis: Axes, run: Run, names: Sequence[str]) -> None:
    rounds = [entry.number for entry in run.rounds]
    for index, name in enumerate(names):
        axis.plot(
            rounds,
            _gaps([entry.silo_epsilon.get(name) for entry in run.rounds]),
            label=_short(name),
            linewidth=1,
            color=COLOURS[index % len(COLOURS)],
            linestyle=_DASHES[index // len(COLOURS) % len(_DASHES)],
        )


def _silos(run: Run) -> Figure | None:
    if not run.silos:
        return None
    labels, table = label_table(run)
    figure, (axis,) = _figure(1)
    axis.set(title="Training records by silo", ylabel="records")
    axis.grid(visible=False, axis="x")
    if len(table) <= ROWS:
        _stack(axis, labels, table)
        names = [_short(silo.name) for silo in run.silos]
        axis.set_xticks(range(len(names)), names, rotation=45, ha="right")
    else:
        _stack(axis, labels, sorted(table, key=sum, reverse=True), filled=True)
        axis.set_xlabel("silos, largest first")
    if len(labels) > 1:
        axis.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _stack(
    axis: Axes, labels: Sequence[str], table: Sequence[Sequence[int]], *, filled: bool = False
) -> None:
    """A bar for each row of `table`, or one staircase for all of them when there are many."""
    places = range(len(table))
    below = [0] * len(table)
    for column, label in enumerate(labels):
        counts = [row[column] for row in table]
        above = [a + b for a, b in zip(below, counts, strict=True)]
        look: dict[str, Any] = {"color": ramp(column, len(labels)), "label": _short(label)}
        if filled:
            axis.fill_between(places, below, above, step="mid", linewidth=0, **look)
        else:
            axis.bar(places, counts, bottom=below, **look)
        below = above


def _gaps(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def _dot(rounds: Sequence[int]) -> str | None:
    return "o" if len(rounds) == 1 else None


def _short(name: str) -> str:
    return in_legend(name, most=_LONGEST_NAME)
