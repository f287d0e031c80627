"""The page that a person opens after a sweep: what differs, what privacy costs, and who pays.

`write_report` reads the sweep's results and nothing else, so a page can be made again at any time,
and for a sweep that was interrupted.
"""

from __future__ import annotations

from pathlib import Path

from privet.files import write_whole
from privet.reports.sweep.chart import write_pictures
from privet.reports.sweep.page import render
from privet.sweeps.cells import showing
from privet.sweeps.store import REQUEST, read_sweep

__all__ = ["write_report"]


def write_report(folder: Path, *, metric: str | None = None) -> Path:
    """Write report.html, accuracy.png and accuracy.svg into a sweep's folder; return the page.

    `metric`: another figure than the task's headline, after which the pictures are then named.

    The page is one file that loads nothing. The same results give the same bytes. Pictures are left
    out while nothing is measured.

    Raises:
        DataError: `folder` has no sweep.json that can be read, or nobody measured `metric`.
    """
    sweep = read_sweep(folder)
    if metric is not None:
        sweep = showing(sweep, metric, folder)
    page = folder / "report.html"
    # Before the page, which names them.
    pictures = write_pictures(sweep, folder)
    again = REQUEST if (folder / REQUEST).exists() else None
    write_whole(page, render(sweep, again=again, pictures=pictures).encode())
    return page
