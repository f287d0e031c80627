"""A run as a tracker follows it.

Not in `pipe`, which the tracker's process runs: it would import the server, and torch with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from privet.experiment import Experiment, dotted
from privet.record.history import RoundRecord, Watch, look_away
from privet.record.summary import SUMMARY
from privet.tracking.pipe import TrackerPipe
from privet.tracking.pipe import open_pipe as open_line
from privet.tracking.tracker import About, Status, Tracking, figures

REPORT = "report.html"


@contextmanager
def tracked_run(
    tracking: Tracking | None, experiment: Experiment, *, folder: Path
) -> Iterator[Watch]:
    """A watch that passes rounds on; at the end the summary and, if there is one, the report.

    Without `tracking` it watches nothing.
    """
    if tracking is None:
        yield look_away
        return
    about = About(folder.absolute().name, dotted(experiment.model_dump(exclude_none=True)))
    with open_line(tracking, folder) as pipe, followed(pipe, "run", about, folder) as watch:
        yield watch


def both(first: Watch, second: Watch) -> Watch:
    """A watch that calls two."""

    def watch(entry: RoundRecord) -> None:
        first(entry)
        second(entry)

    return watch


@contextmanager
def followed(pipe: TrackerPipe, key: str, about: About, folder: Path) -> Iterator[Watch]:
    """A watch that says what happens on `pipe`, where the run is known as `key`."""
    begun = False

    def watch(entry: RoundRecord) -> None:
        nonlocal begun
        if not begun:  # with the first entry: until then the settings may be refused
            pipe.send("begin", key, about)
            begun = True
        pipe.send("round", key, entry.round, figures(entry))

    with ended(pipe, key, [folder / name for name in (SUMMARY, REPORT)]):
        yield watch


@contextmanager
def ended(pipe: TrackerPipe, key: str, files: Sequence[Path]) -> Iterator[None]:
    """Send how it ended, and what there is of `files` then."""
    status: Status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        # Of a run that failed, the summary in the folder may be an earlier one's.
        there = [file.absolute() for file in files if status == "FINISHED" and file.exists()]
        pipe.send("end", key, status, there)
