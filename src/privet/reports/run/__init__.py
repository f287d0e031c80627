"""The page that a person opens after a run: what was learned, and what it cost in privacy.

`write_report` reads the run folder and nothing else, so a page can be made again at any time, on
another machine, and for a run that was interrupted.
"""

from __future__ import annotations

from pathlib import Path

from privet.files import write_whole
from privet.record.reading import read_run
from privet.reports.run.page import render
from privet.reports.run.plots import write_plots

__all__ = ["write_report"]

_PLOTS = "plots"


def write_report(folder: Path, *, plots: bool = False, metric: str | None = None) -> Path:
    """Write `report.html` into the run folder; return its path.

    The page is one file that loads nothing: no script, font or picture from elsewhere. With `plots`
    its charts are written as `plots/*.png` as well; where there are some already they are always
    written again, so that they never show another state. The same folder gives the same bytes. A
    torn last line of `history.jsonl` is left out; without `summary.json` the page says after which
    round the run was interrupted. `metric`: another figure than the task's headline to show first.

    Raises:
        DataError: `folder` has no `experiment.toml`, one of its files cannot be read, or
            nobody measured `metric`.
    """
    run = read_run(folder)
    if metric is not None:
        run = run.showing(metric)
    page = folder / "report.html"
    write_whole(page, render(run).encode())
    if plots or (folder / _PLOTS).exists():
        write_plots(run, folder / _PLOTS)
    return page
