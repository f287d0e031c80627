"""A sweep as a tracker follows it: its cells, and a run of its own that they belong to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from privet.experiment import Experiment, dotted
from privet.server.app import look_away
from privet.server.rounds import Watch
from privet.sweeps.results import Cell, Sweep, title, to_plain
from privet.tracking.following import REPORT, ended, followed
from privet.tracking.line import TrackerPipe, open_line
from privet.tracking.tracker import About, Tracking

_SWEEP = "sweep"
_FILES = ("sweep.json", "cells.csv", REPORT)


@contextmanager
def tracked_cell(
    line: TrackerPipe | None, cell: Cell, experiment: Experiment, *, folder: Path
) -> Iterator[Watch]:
    """A watch for a cell, in the process that runs it; without a line it watches nothing."""
    if line is None:
        yield look_away
        return
    settings = dotted(experiment.model_dump(exclude_none=True)) if cell.kind == "federated" else {}
    own = {"kind": cell.kind, "seed": cell.seed} | ({"silo": cell.silo} if cell.silo else {})
    about = About(f"{title(cell)}, seed {cell.seed}", {**settings, **cell.settings, **own}, _SWEEP)
    with followed(line, cell.address, about, folder) as watch:
        yield watch


@dataclass(frozen=True)
class SweepTracking:
    """A sweep's own run, which its cells belong to, and the line that they speak on."""

    line: TrackerPipe

    def begin(self, sweep: Sweep, *, folder: Path) -> None:
        """Say what is swept."""
        axes = {f"axis.{axis.key}": to_plain(axis.values) for axis in sweep.axes}
        settings = dotted(sweep.experiment) | axes | {"seeds": list(sweep.seeds)}
        self.line.say("begin", _SWEEP, About(folder.absolute().name, settings, cells=True))


@contextmanager
def tracked_sweep(
    track: str | SweepTracking | None, *, folder: Path
) -> Iterator[SweepTracking | None]:
    """What `sweep` takes as `track`; one that is open already stays open.

    At the end the results and, if there is one, the report are passed on.
    """
    if track is None or isinstance(track, SweepTracking):
        yield track
        return
    with (
        open_line(Tracking.parse(track), folder) as line,
        ended(line, _SWEEP, [folder / name for name in _FILES]),
    ):
        yield SweepTracking(line)
