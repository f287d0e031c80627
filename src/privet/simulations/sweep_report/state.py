"""How far the sweep has got, and what went wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from privet.simulations.pages.formatting import counted, duration, listed
from privet.simulations.sweep.results import Sweep
from privet.simulations.sweep.words import title


@dataclass(frozen=True)
class Failures:
    """A reason and the cells that failed for it."""

    reason: str
    times: int
    where: str


def headline(sweep: Sweep) -> Iterator[tuple[str, str, str]]:
    """Figures: name, value, note."""
    done = sum(cell.status == "done" for cell in sweep.cells)
    yield "Cells done", f"{done:,}", f"of {len(sweep.cells):,}"
    yield "Settings tried", f"{len(sweep.tried):,}", "on these data, in this folder"
    yield "Seeds", f"{len(sweep.seeds):,}", "" if len(sweep.seeds) > 1 else "no intervals"
    yield "Time", duration(sweep.seconds), f"{counted(sweep.workers, 'cell')} at a time"


def alarms(sweep: Sweep) -> Iterator[tuple[str, bool]]:
    """What spoils the picture, and whether that is grave."""
    waiting = sum(cell.status == "waiting" for cell in sweep.cells)
    if waiting:
        yield (
            f"Not finished: {counted(waiting, 'cell')} of {len(sweep.cells):,} "
            f"{'waits' if waiting == 1 else 'wait'}. Settings without a whole seed are left out.",
            False,
        )
    if sweep.failed:
        yield f"{counted(len(sweep.failed), 'cell')} of {len(sweep.cells):,} failed.", True
    if sweep.selection:
        yield "This page tells the other results too: it is not for release.", False
    if {len(each.seeds) for each in sweep.estimates} == {1} and sweep.selection is None:
        yield "One seed: no intervals, and differences between settings show nothing.", False


def failures(sweep: Sweep) -> tuple[Failures, ...]:
    """By reason, in the order in which they come first."""
    found: dict[str, list[str]] = {}
    for cell in sweep.failed:
        where = f"{title(cell)}, seed {cell.seed}"
        found.setdefault(cell.reason or "unknown", []).append(where)
    return tuple(
        Failures(reason, len(where), listed(where, most=8)) for reason, where in found.items()
    )
