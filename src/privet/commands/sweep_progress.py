"""What a person sees while cells go by: a bar, plain lines, JSON lines, or nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from privet.commands.progress import Mode, duration
from privet.sweeps.results import Cell, title, to_plain
from privet.sweeps.run import SilentSweep, SweepProgress


@contextmanager
def cell_progress(mode: Mode) -> Iterator[SweepProgress]:
    """A watch for a sweep while the context is open."""
    if mode == "bar":
        with _Bar() as bar:
            yield bar
    elif mode == "lines":
        yield _Lines()
    elif mode == "json":
        yield _JsonLines()
    else:
        yield SilentSweep()


class _JsonLines(SilentSweep):
    def __call__(self, cell: Cell) -> None:
        print(json.dumps(to_plain(cell)), flush=True)


class _Tally:
    """How many cells are done, have failed, and are under way."""

    def begin(self, cells: Sequence[Cell], *, workers: int) -> None:
        self.total = len(cells)
        self.done = sum(cell.status == "done" for cell in cells)
        self.failed = 0
        self._workers = workers
        # Cells of earlier commands took no time of this one, so they tell nothing of its pace.
        self._before = self.done
        self._start = time.monotonic()

    def count(self, cell: Cell) -> None:
        self.done += cell.status == "done"
        self.failed += cell.status == "failed"

    @property
    def running(self) -> int:
        return min(self._workers, self.total - self.done - self.failed)

    def left(self) -> str:
        """The time left, as if cells to come took as long as those that this command ran."""
        ended = self.done + self.failed - self._before
        coming = self.total - self.done - self.failed
        pace = (time.monotonic() - self._start) / max(1, ended)
        return f"{duration(pace * coming)} left" if coming and ended else ""


class _Lines:
    """A line for each cell."""

    def __init__(self) -> None:
        self._tally = _Tally()

    def begin(self, cells: Sequence[Cell], *, workers: int) -> None:
        self._tally.begin(cells, workers=workers)
        if self._tally.done:
            print(f"{self._tally.done} of {self._tally.total} cells are done already", flush=True)

    def __call__(self, cell: Cell) -> None:
        tally = self._tally
        tally.count(cell)
        number = f"{tally.done + tally.failed:>{len(str(tally.total))}}/{tally.total}"
        line = f"cell {number}  {title(cell)}, seed {cell.seed}: {_outcome(cell)}"
        print("  ".join(filter(None, (line, tally.left()))), flush=True)


def _outcome(cell: Cell) -> str:
    if cell.status == "failed":
        return f"FAILED: {cell.reason}"
    metric = cell.metric
    value = "done" if cell.value is None else f"{metric.label} {metric.text(cell.value)}"
    spent = "" if cell.epsilon is None else f"  epsilon {cell.epsilon:.3f}"
    return f"{value}{spent}  {cell.seconds or 0:.1f} s"


class _Bar:
    """Rich's bar: cells done, running and failed, and the time left."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._tally = _Tally()
        self._bar = Progress(
            TextColumn("cell"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.description}", markup=False),
            expand=True,
        )

    def __enter__(self) -> _Bar:
        self._bar.start()
        self._task = self._bar.add_task("reading the data", total=None)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, cells: Sequence[Cell], *, workers: int) -> None:
        self._tally.begin(cells, workers=workers)
        self._bar.update(self._task, total=self._tally.total)
        self._show()

    def __call__(self, cell: Cell) -> None:
        self._tally.count(cell)
        self._show()

    def _show(self) -> None:
        tally = self._tally
        parts = (f"{tally.running} running", f"{tally.failed} failed", tally.left())
        self._bar.update(
            self._task,
            completed=tally.done + tally.failed,
            description="  ".join(filter(None, parts)),
        )
