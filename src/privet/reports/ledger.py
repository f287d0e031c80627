"""A ledger as a picture: epsilon over time, for each data set and job."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from privet.charts.chart import Chart, Key, Point, Shape, silo_style
from privet.charts.pictures import picture
from privet.charts.scales import Scale, Tick, finite, nice_ticks, ticks
from privet.errors import PrivetError
from privet.files import write_whole
from privet.privacy.ledger import Charge, Entry, History
from privet.privacy.ledger.costs import epsilon_of
from privet.privacy.ledger.history import moment

_POINTS = 60
"""Of a curve: each costs one composition."""


def write_plot(
    history: History, datasets: Sequence[str], *, delta: float, budget: float | None, path: Path
) -> None:
    """Draw the epsilon of `datasets` at `delta`, a panel each, and a line at `budget`.

    Raises:
        PrivetError: `path` cannot be written.
    """
    if not datasets:
        raise PrivetError("the ledger has no entry yet: there is nothing to draw")
    jobs = dict.fromkeys(job for dataset in datasets for job in jobs_of(history, dataset))
    styles = {job: silo_style(place) for place, job in enumerate(jobs)}
    charts = [_chart(history, each, styles, delta=delta, budget=budget) for each in datasets]
    kind = path.suffix.removeprefix(".") or "png"
    try:
        write_whole(path, picture(charts, kind, dpi=130, down=True))
    except ValueError as error:  # matplotlib names the kinds that it can draw
        raise PrivetError(f"--plot {path}: {error}") from None
    except OSError as error:
        raise PrivetError(f"--plot {path}: it cannot be written ({error.strerror})") from None


def _chart(
    history: History,
    dataset: str,
    styles: Mapping[str, str],
    *,
    delta: float,
    budget: float | None,
) -> Chart:
    whole = [*_curve(history, dataset, None, delta=delta)]
    curves = {
        "all, with reservations": ("total", [(time, reserved) for time, reserved, _ in whole]),
        "all, committed": ("own", [(time, committed) for time, _, committed in whole]),
    }
    for job in jobs_of(history, dataset):
        found = _curve(history, dataset, job, delta=delta)
        curves[job] = styles[job], [(time, reserved) for time, reserved, _ in found]
    levels = nice_ticks(finite([0.0, budget, *(y for _, c in curves.values() for _, y in c)]))
    first, last = whole[0][0], whole[-1][0]
    span = (last - first).total_seconds() or 1.0
    up = Scale(levels[0], levels[-1], 0.0, 100.0)

    def stairs(curve: Sequence[tuple[datetime, float]]) -> list[list[Point]]:
        """As far as epsilon is finite."""
        at = [
            (100 * (time - first).total_seconds() / span, up(y))
            for time, y in curve
            if math.isfinite(y)
        ]
        # Stairs: between two entries nothing was spent.
        corners = [corner for (_, y), end in pairwise(at) for corner in ((end[0], y), end)]
        return [[*at[:1], *corners]] if at else []

    line = [[(0.0, up(budget)), (100.0, up(budget))]] if budget is not None else []
    named = f"budget {budget:g}" if budget is not None else ""
    moments = [first + (last - first) * (step / 4) for step in range(5)]
    return Chart(
        f"{dataset}: epsilon at delta {delta:g}",
        "",
        (
            Shape("rule", "target", line),
            *(Shape("line", f"curve {style}", stairs(c)) for style, c in curves.values()),
        ),
        tuple(Tick(25 * n, f"{time:%Y-%m-%d\n%H:%M:%S}") for n, time in enumerate(moments)),
        ticks(levels, up),
        legend=(
            *(Key(name, style) for name, (style, _) in curves.items()),
            *([Key(named, "target")] if named else []),
        ),
    )


def _curve(
    history: History, dataset: str, job: str | None, *, delta: float
) -> Iterator[tuple[datetime, float, float]]:
    """Time, epsilon with the reservations of that time, and epsilon of what was committed."""
    entries = [entry for entry in history.entries if _concerns(entry, dataset, job)]
    wanted = {round(i * (len(entries) - 1) / _POINTS) for i in range(_POINTS + 1)}
    # Entry by entry: what stood open at a moment is in the picture as it stood then.
    so_far = History()
    for number, entry in enumerate(entries):
        so_far.add(entry)
        if number in wanted:
            charges = list(so_far.charged(dataset))
            committed = [charge for charge in charges if not charge.open]
            time = moment(entry.time)
            yield time, _epsilon(charges, delta=delta), _epsilon(committed, delta=delta)


def jobs_of(history: History, dataset: str) -> list[str]:
    """The jobs that the data set was charged for, in the order of their first charge."""
    jobs = (charge.reserve.job for charge in history.charged(dataset))
    return list(dict.fromkeys(job for job in jobs if job))


def _concerns(entry: Entry, dataset: str, job: str | None) -> bool:
    return entry.dataset == dataset and (job is None or entry.job == job)


def _epsilon(charges: Sequence[Charge], *, delta: float) -> float:
    return epsilon_of([part for charge in charges for part in charge.parts], delta=delta)
