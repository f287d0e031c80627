"""A ledger as a picture: epsilon over time, for each data set and job."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from privet.errors import PrivetError
from privet.files import write_whole
from privet.privacy.ledger import Charge, Entry, History
from privet.privacy.ledger.costs import epsilon_of
from privet.privacy.ledger.history import moment

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = 60
"""Of a curve: each costs one composition."""


def write_plot(
    history: History, datasets: Sequence[str], *, delta: float, budget: float | None, path: Path
) -> None:
    """Draw the epsilon of `datasets` at `delta`, a panel each, and a line at `budget`.

    Raises:
        PrivetError: `path` cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    rows = max(1, len(datasets))
    with mpl.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(8, 3.2 * rows), layout="constrained")
        panels = figure.subplots(rows, 1, squeeze=False)[:, 0]
    for panel, dataset in zip(panels, datasets, strict=False):
        _draw(panel, history, dataset, delta=delta)
        if budget is not None:
            panel.axhline(budget, color="crimson", ls="--", lw=1, label=f"budget {budget:g}")
        panel.set(title=dataset, ylabel=f"epsilon at delta = {delta:g}")
        panel.tick_params(axis="x", rotation=20)
        panel.legend(fontsize=8, framealpha=0.8, edgecolor="none")
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix.removeprefix(".") or "png", dpi=130)
    try:
        write_whole(path, picture.getvalue())
    except OSError as error:
        raise PrivetError(f"--plot {path}: it cannot be written ({error.strerror})") from None


def _draw(panel: Axes, history: History, dataset: str, *, delta: float) -> None:
    times, reserved, committed = zip(*_curve(history, dataset, None, delta=delta), strict=True)
    (line,) = panel.step(times, reserved, where="post", lw=2.0, label="all, with reservations")
    panel.step(
        times, committed, where="post", ls=":", color=line.get_color(), label="all, committed"
    )
    for job in jobs_of(history, dataset):
        times, reserved, _ = zip(*_curve(history, dataset, job, delta=delta), strict=True)
        panel.step(times, reserved, where="post", lw=1.0, label=job)


def _curve(
    history: History, dataset: str, job: str | None, *, delta: float
) -> Iterator[tuple[datetime, float, float]]:
    """Time, epsilon with the reservations of that time, and epsilon of what was committed."""
    entries = [entry for entry in history.entries if _concerns(entry, dataset, job)]
    wanted = {round(i * (len(entries) - 1) / _POINTS) for i in range(_POINTS + 1)}
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
